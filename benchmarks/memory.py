"""Bytes that a step's updates need: GRPO against PPO, whose critic is a second model.

    python benchmarks/memory.py

The programs of `training/rl.py` are compiled from shapes alone; nothing is allocated. Of each
program: its arguments, temporaries and outputs (donated memory once), and what of the run's state
lies beside it. The largest is the peak. Sampling, the same for both, is left out. Prints one JSON
line and writes it to --out.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from r1jax import mesh as mesh_lib
from r1jax.config import Config, from_config_dict
from r1jax.ops import packing
from r1jax.training import learning, rl
from r1jax.training.batches import rl_batch_shape
from r1jax.training.critic import Critic, abstract_critic
from r1jax.training.optimizer import make_optimizer
from r1jax.training.setup import Setup, abstract_state, make_setup
from r1jax.types import PackedBatch

HERE = pathlib.Path(__file__).parent
TINY = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 128}
QWEN = {"layers": 28, "width": 1536, "heads": 12, "kv_heads": 2, "head_dim": 128, "ffn": 8960}
QWEN |= {"vocab_size": 151_936, "qkv_bias": True, "dtype": "bfloat16", "remat": "full"}
# Model and lengths of configs/r1_zero_tiny.py; Qwen/Qwen2.5-1.5B with those of
# configs/r1_zero_qwen2_5_math_1_5b.py, a row of 4,024 tokens at a time.
MODELS: Mapping[str, dict[str, Any]] = {
    "tiny": {
        "model": {**TINY, "qk_norm": True},
        "data": {"max_prompt_tokens": 9},
        "sampling": {"max_tokens": 16},
        "batch": {"tokens_per_device": 1024, "lanes": 1},
    },
    "qwen2_5_1_5b": {
        "model": QWEN,
        "data": {"max_prompt_tokens": 1024},
        "sampling": {"max_tokens": 3000},
        "batch": {"tokens_per_device": 4024, "lanes": 1},
    },
}
PPO = {"rl": {"advantage": "gae"}}
METHODS: Mapping[str, dict[str, Any]] = {
    "grpo": {},
    "grpo, reference": {"objective": {"kl": "k3", "kl_coef": 0.001}},
    "ppo": PPO,
    "ppo, reference": {**PPO, "objective": {"kl": "k1", "kl_coef": 0.001, "kl_in_reward": True}},
}

NAMES = flags.DEFINE_list("models", list(MODELS), "of MODELS")
OUT = flags.DEFINE_string("out", str(HERE / "results" / "memory.json"), "'' = nowhere")


def abstract_batch(config: Config, setup: Setup) -> PackedBatch:
    """A step's batch, in as many micro-batches as it may need."""
    shape = rl_batch_shape(config, setup.mesh, setup.module.config.attention)
    empty = packing.empty_batch((shape.rows, shape.row_length), shape.share_prompts)
    batch, _ = packing.split_micro(empty, shape.rows_per_micro)
    sharding = mesh_lib.batch_sharding(setup.mesh, None)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), batch
    )


class Program(NamedTuple):
    lowered: jax.stages.Lowered
    given: Any  # of the run's state, what is an argument of it


def step_programs(config: Config, setup: Setup) -> tuple[dict[str, Program], dict[str, int]]:
    """The programs of a step's updates, and the bytes of the state that a run keeps."""
    optimizer = make_optimizer(config.optim, config.rl.steps)
    state = abstract_state(setup, optimizer)
    batch, first, used = abstract_batch(config, setup), np.int32(0), np.int32(1)
    update: Any = rl.make_rl_update(setup, optimizer, {}, 1.0)
    critic = Critic(setup, abstract_critic(setup)) if config.rl.has_critic else None
    kept = {"policy": tree_bytes(state)}
    with mesh_lib.use(setup.mesh):
        programs = {"policy update": Program(update.lower(state, batch, used), state)}
        if config.objective.needs_reference:
            kept["reference"] = tree_bytes(state.params)
            given = (setup.module, state.params, batch, first, used, 1.0)
            programs["reference pass"] = Program(
                learning.evaluate_micro.lower(*given), state.params
            )
        if critic is not None:
            kept["critic"] = tree_bytes(critic.state)
            lowered = critic.predict.lower(critic.state.params, batch, first, used)
            programs["values"] = Program(lowered, critic.state.params)
            batch = dataclasses.replace(batch, values=batch.advantages, returns=batch.advantages)
            critic_update: Any = critic.update_at(config.critic.clip)
            lowered = critic_update.lower(critic.state, batch, used)
            programs["critic update"] = Program(lowered, critic.state)
    return programs, kept


def tree_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measure(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of a run: what it keeps, and while each program of a step's updates is at work."""
    config = from_config_dict(tree)
    with (setup := make_setup(config)).grader:
        programs, kept = step_programs(config, setup)
        state = sum(kept.values())
        peaks = {}
        for name, (lowered, given) in programs.items():
            beside = state - tree_bytes(given)
            peaks[name] = beside + program_bytes(lowered.compile().memory_analysis())
    return {"kept": kept, "state": state, "peaks": peaks, "peak": max(peaks.values())}


def program_bytes(found: Any) -> int:
    """While it runs; what is donated is counted once."""
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + outputs


def main(_: Any) -> None:
    line: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    for name in NAMES.value:
        runs = {way: measure({**MODELS[name], **tree}) for way, tree in METHODS.items()}
        ratios = {
            f"grpo / ppo{end}, {what}": round(runs[f"grpo{end}"][what] / runs[f"ppo{end}"][what], 3)
            for end in ("", ", reference")
            for what in ("state", "peak")
        }
        line[name] = {"ratios": ratios, **runs}
    print(json.dumps(line))
    if OUT.value:
        pathlib.Path(OUT.value).write_text(json.dumps(line, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
