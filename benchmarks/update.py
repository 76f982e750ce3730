"""Seconds of the update phase: advantages, packing, forward, backward, AdamW.

    python benchmarks/update.py --workload=small
    python benchmarks/update.py --workload=small --peers --trl_python=... --tunix_python=...

The sampled responses are made up, of the lengths that the workload's would have. Prints one JSON
line with the peers' keys; `matmul_fraction` is the arithmetic that the packed batch needs (see
`common.update_flops`), over the rate of a plain matrix product measured before and after each
update: the rate of a shared machine moves within a run.
"""

import itertools
import json
import operator
import statistics
import time
from typing import Any

import common
import jax
import numpy as np
from absl import app, flags
from peers.workloads import WORKLOADS, Workload

from r1jax import mesh as mesh_lib
from r1jax.config import Config, from_config_dict
from r1jax.ops.attention import packed_mask
from r1jax.training import batches as batches_lib
from r1jax.training import learning, step
from r1jax.training.lanes import choose_lanes
from r1jax.training.optimizer import make_optimizer
from r1jax.types import Graded, PackedBatch, PromptBatch, Rollouts, TrainState

TOKENS_PER_DEVICE = flags.DEFINE_integer("tokens_per_device", 0, "of a micro-batch; 0 = default")
LANES = flags.DEFINE_integer("lanes", 0, "config.batch.lanes")
ROW_LENGTH = flags.DEFINE_integer("row_length", 0, "config.batch.row_length")
SHARE_PROMPTS = flags.DEFINE_bool("share_prompts", None, "config.batch.share_prompts")
REMAT = flags.DEFINE_string("remat", "dots", "config.model.remat")


def make_config(workload: Workload) -> Config:
    batch: dict[str, Any] = {"row_length": ROW_LENGTH.value, "lanes": LANES.value}
    if TOKENS_PER_DEVICE.value:
        batch["tokens_per_device"] = TOKENS_PER_DEVICE.value
    if SHARE_PROMPTS.value is not None:
        batch["share_prompts"] = SHARE_PROMPTS.value
    return from_config_dict(
        {
            "data": {"max_prompt_tokens": workload.prompt_len},
            "rl": {"prompts_per_step": workload.prompts, "samples_per_prompt": workload.samples},
            "sampling": {"max_tokens": workload.response_len},
            "batch": batch,
        }
    )


class Learner:
    """The update phase of `r1jax.training.rl`, with its state."""

    def __init__(self, workload: Workload) -> None:
        self.config = make_config(workload)
        self.module, params = common.make_model(workload, remat=REMAT.value)
        self.mesh = mesh_lib.make_mesh()
        attention = self.module.config.attention
        self.shape = batches_lib.rl_batch_shape(self.config, self.mesh, attention)
        optimizer = make_optimizer(self.config.optim, common.STEPS.value)
        objective = self.config.objective
        loss = step.make_policy_loss(self.module, objective, temperature=1.0, on_policy=True)
        weigh = step.make_policy_weights(objective)
        lanes = choose_lanes(self.config.batch, self.mesh)
        self.update = step.make_update(loss, weigh, optimizer, lanes=lanes)
        self.state: TrainState = step.init_state(params, optimizer)

    def learn(self, rollouts: Rollouts, number: int) -> list[tuple[PackedBatch, int]]:
        """One step's updates, waited for; the batches they took."""
        graded = grade(rollouts)
        made = learning.make_minibatches(self.config, self.shape, graded, number)
        batches = [(minibatch.batch, minibatch.used) for minibatch in made]
        for batch, used in batches:
            self.state, _ = self.update(self.state, batch, np.int32(used))
        jax.block_until_ready(self.state)
        return batches


def grade(rollouts: Rollouts) -> Graded:
    """The peers' reward: how many different tokens a response has."""
    count = len(rollouts.lengths)
    rewards = [float(len(set(rollouts.response(row).tolist()))) for row in range(count)]
    every = np.ones(count, bool)
    return Graded(
        rollouts=rollouts,
        texts=("",) * count,
        rewards=np.array(rewards, np.float32),
        valid=every,
        correct=every,
        reasoned=every,
        answers=(None,) * count,
        parts={},
    )


def made_up_rollouts(workload: Workload, number: int) -> Rollouts:
    rng = np.random.default_rng([common.SEED, number])
    lengths = common.response_lengths(workload, number)
    shape = (len(lengths), workload.response_len)
    inside = np.arange(workload.response_len) < lengths[:, None]
    prompts = common.make_prompts(workload, number)
    return Rollouts(
        prompts=PromptBatch(np.arange(len(prompts)), prompts, ({},) * len(prompts)),
        tokens=(inside * rng.integers(0, workload.vocab, shape)).astype(np.int32),
        logp=np.where(inside, -np.log(workload.vocab), 0).astype(np.float32),
        lengths=lengths.astype(np.int32),
        finished=np.ones(len(lengths), bool),
    )


def needed_flops(workload: Workload, batches: list[tuple[PackedBatch, int]]) -> float:
    """Of the batches as packed: shared prompts count once."""
    places = counted = pairs = 0
    for batch, used in batches:
        for micro in range(used):
            one = jax.tree.map(operator.itemgetter(micro), batch)
            real = one.segment_ids > 0
            places, counted = places + int(real.sum()), counted + int(one.mask.sum())
            mask = packed_mask(one.segment_ids, prefix_ids_BT=one.prefix_ids)
            pairs += int((np.asarray(mask) & real[:, :, None]).sum())
    return common.update_flops(workload, places, counted, pairs)


def main(_: Any) -> None:
    if common.PEERS.value:
        common.run_with_peers(__file__, ["update_s", "peak_gb"])
        return
    workload = WORKLOADS[common.WORKLOAD.value]
    learner = Learner(workload)
    seconds, tokens, flops = [], [], []
    limits = [common.matmul_flops()]
    for number in range(common.STEPS.value):
        rollouts = made_up_rollouts(workload, number)
        start = time.perf_counter()
        batches = learner.learn(rollouts, number)
        seconds.append(time.perf_counter() - start)
        limits.append(common.matmul_flops())
        tokens.append(int(rollouts.lengths.sum()))
        flops.append(needed_flops(workload, batches))
    steady = slice(min(2, len(seconds) - 1), None)
    none = [0.0] * len(seconds)
    line = common.report(
        first_s=seconds[0],
        rollouts=none[steady],
        updates=seconds[steady],
        tokens=tokens[steady],
    )
    around = [(before + after) / 2 for before, after in itertools.pairwise(limits)]
    fractions = [n / s / rate for n, s, rate in zip(flops, seconds, around, strict=True)]
    line |= {
        "gflop": round(statistics.median(flops[steady]) / 1e9, 1),
        "matmul_gflops": round(statistics.median(around[steady]) / 1e9, 1),
        "matmul_fraction": round(statistics.median(fractions[steady]), 3),
        "row_length": learner.shape.row_length,
        "micro_batches": sum(used for _, used in batches),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    app.run(main)
