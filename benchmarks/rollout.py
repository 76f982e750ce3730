"""How fast responses are sampled, beside the peers. Prints one JSON line.

python benchmarks/rollout.py --workload=stagger
python benchmarks/rollout.py --workload=small --peers --trl_python=... --tunix_python=...

`flop_share` is the part of the machine's plain matrix-product rate that the products a rollout must
do were done at; `byte_share` the same for weights and cached tokens that must be read. The larger
says how near the rollout is to what the machine can do.
"""

import json
import time
from typing import Any

import common
from absl import app, flags
from peers.workloads import WORKLOADS, Workload

from r1jax import rollout
from r1jax.models.config import ModelConfig
from r1jax.types import Rollouts

SLOTS = flags.DEFINE_integer("slots", 0, "responses decoded at once; 0 = the engine's choice")
CHUNK = flags.DEFINE_integer("chunk", 0, "decoding steps between looks of the host; 0 = the same")
LANES = flags.DEFINE_integer("lanes", 0, "loops side by side; 0 = the same")
INT8 = flags.DEFINE_bool("int8", False, "weights and caches of eight bits")
SPECULATE = flags.DEFINE_bool("speculate", False, "look drafts up in the text")


def main(_: Any) -> None:
    if common.PEERS.value:
        common.run_with_peers(__file__, ["rollout_s", "rollout_tok_s"])
        return
    workload = WORKLOADS[common.WORKLOAD.value]
    module, params = common.make_model(workload)
    decode_params = rollout.prepare_params(module.config, params, int8=INT8.value)
    sampling = rollout.SamplingParams(max_tokens=workload.response_len, stop_ids=workload.eos_ids)
    config = rollout.RolloutConfig(
        slots=SLOTS.value,
        chunk=CHUNK.value,
        lanes=LANES.value,
        speculate="ngram" if SPECULATE.value else "none",
        int8_cache=INT8.value,
    )
    seconds, runs = [], []
    for step in range(common.STEPS.value):
        start = time.perf_counter()
        in_flight = rollout.dispatch(
            module,
            decode_params,
            rollout.as_prompt_batch(common.make_prompts(workload, step)),
            sampling=sampling,
            samples_per_prompt=workload.samples,
            seed=common.SEED,
            step=step,
            config=config,
        )
        in_flight.collect()
        seconds.append(time.perf_counter() - start)
        runs.append(in_flight)
    steady, last = seconds[2:], runs[-1]
    tokens = [int(run.rollouts.lengths.sum()) for run in runs[2:]]
    found = common.report(
        first_s=seconds[0], rollouts=steady, updates=[0.0] * len(steady), tokens=tokens
    )
    best = min(range(len(steady)), key=steady.__getitem__)
    found |= limits(
        module.config, workload, runs[2:][best].rollouts, runs[2:][best].steps, steady[best]
    )
    found |= {"steps": last.steps, "busy_share": round(last.busy_share, 3), **common.machine()}
    print(json.dumps(found))


def limits(
    config: ModelConfig, workload: Workload, rollouts: Rollouts, steps: int, seconds: float
) -> dict[str, float]:
    """What must be multiplied and read, over what the machine can in that time."""
    per_layer = config.width * config.head_dim * 2 * (config.heads + config.kv_heads)
    weights = config.layers * (per_layer + 3 * config.width * config.ffn)
    head = config.width * config.vocab_size
    read = rollouts.lengths - 1  # tokens that went through the model one by one
    seen = read * workload.prompt_len + read * (read + 1) / 2
    prompt = workload.prompts * workload.prompt_len
    prompt_pairs = prompt * (workload.prompt_len + 1) / 2
    pairs = float(seen.sum() + prompt_pairs)
    products = (
        2 * (int(read.sum()) + prompt) * weights
        + 2 * int(rollouts.lengths.sum()) * head
        + 4 * pairs * config.layers * config.heads * config.head_dim
    )
    cached = 2 * config.layers * config.kv_heads * config.head_dim * float(seen.sum())
    bytes_read = 4 * (steps * (weights + head) + cached)
    return {
        "flop_share": round(products / seconds / common.matmul_flops(), 3),
        "byte_share": round(bytes_read / seconds / common.copy_bytes(), 3),
    }


if __name__ == "__main__":
    app.run(main)
