"""What benchmarks share: workloads, a synthetic model, the machine's limits, the peers' runs."""

import json
import math
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from peers.workloads import WORKLOADS, Workload

from r1jax import models
from r1jax.types import Params

HERE = pathlib.Path(__file__).parent
FIRST_PROMPT_TOKEN = 140  # as the peers' tokenizers: no prompt holds an id that ends a response
PROMPT_TOKENS = 128
SEED = 0

WORKLOAD = flags.DEFINE_enum("workload", "small", sorted(WORKLOADS), "which of peers/workloads.py")
STEPS = flags.DEFINE_integer("steps", 6, "steps; the first two are not counted")
PEERS = flags.DEFINE_bool("peers", False, "run the peers too, in turn, and print ratios")
ROUNDS = flags.DEFINE_integer("rounds", 3, "with --peers: runs of each")
TRL_PYTHON = flags.DEFINE_string("trl_python", "", "a python that has torch and trl")
TUNIX_PYTHON = flags.DEFINE_string("tunix_python", "", "a python that has google-tunix")


def model_config(workload: Workload, **changes: Any) -> models.ModelConfig:
    fields = {
        "vocab_size": workload.vocab,
        "layers": workload.layers,
        "width": workload.width,
        "heads": workload.heads,
        "kv_heads": workload.kv_heads,
        "head_dim": workload.head_dim,
        "ffn": workload.ffn,
        "rope_theta": 1e6,
        "qk_norm": True,
    }
    return models.ModelConfig(**{**fields, **changes})


def make_model(workload: Workload, **changes: Any) -> tuple[models.Transformer, Params]:
    """The workload's model, its parameters drawn at random."""
    module = models.Transformer(model_config(workload, **changes))
    return module, jax.jit(models.init_params, static_argnums=0)(module, SEED)


def make_prompts(workload: Workload, step: int) -> tuple[np.ndarray, ...]:
    """A step's prompts, all different, each of exactly `prompt_len` tokens."""
    shape = (workload.prompts, workload.prompt_len)
    rng = np.random.default_rng([SEED, step])
    return tuple(rng.integers(FIRST_PROMPT_TOKEN, FIRST_PROMPT_TOKEN + PROMPT_TOKENS, shape))


def response_lengths(workload: Workload, step: int) -> np.ndarray:
    """How long the responses of a policy that knows nothing yet would be, [prompts * samples]."""
    count = workload.prompts * workload.samples
    if not workload.eos_ids:
        return np.full(count, workload.response_len)
    rng = np.random.default_rng([SEED, step])
    ends = rng.geometric(len(workload.eos_ids) / workload.vocab, count)
    return np.minimum(ends, workload.response_len)


def matmul_flops(size: int = 2048, dtype: str = "float32", repeats: int = 9) -> float:
    """FLOP/s of this machine's plain matrix product: the best of some runs."""
    x = jnp.full((size, size), 1 / size, dtype)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / best_seconds(lambda: product(x, x), repeats)


def copy_bytes(megabytes: int = 256, repeats: int = 9) -> float:
    """Bytes per second read and written by an elementwise pass over memory, in place: a new array
    for every pass would measure page faults, a small part of the rate."""
    held = [jnp.zeros(megabytes * 2**18, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run() -> jax.Array:
        held[0] = add(held[0])
        return held[0]

    return 2 * held[0].nbytes / best_seconds(run, repeats)


def best_seconds(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())
    return min(timed(run)[0] for _ in range(repeats))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds until the result is there, the result)."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def update_flops(workload: Workload, places: int, counted: int, pairs: int) -> float:
    """Matrix-product FLOPs of a forward and backward pass that does nothing twice.

    `places` are tokens read, `counted` those that the head predicts, `pairs` the (query, key) pairs
    that attention must look at.
    """
    w = workload
    projections = w.width * w.head_dim * 2 * (w.heads + w.kv_heads)
    per_layer = places * (projections + 3 * w.width * w.ffn) + pairs * 2 * w.heads * w.head_dim
    return 3 * 2 * (w.layers * per_layer + counted * w.width * w.vocab)


def peak_gb() -> float:
    """The most memory this process ever held."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # a child's ru_maxrss starts from its parent's
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine() -> dict[str, Any]:
    """What a number depends on besides the code."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def report(
    *, first_s: float, rollouts: Sequence[float], updates: Sequence[float], tokens: Sequence[int]
) -> dict[str, Any]:
    """The peers' keys, from each steady step's seconds and sampled tokens."""
    steps = [r + u for r, u in zip(rollouts, updates, strict=True)]

    def rate(seconds: Sequence[float]) -> int | None:
        if not any(seconds):
            return None
        return round(statistics.median(n / s for n, s in zip(tokens, seconds, strict=True)))

    return {
        "peer": "r1jax",
        "workload": WORKLOAD.value,
        "first_step_s": round(first_s, 3),
        "rollout_s": round(statistics.median(rollouts), 3),
        "update_s": round(statistics.median(updates), 3),
        "step_s": round(statistics.median(steps), 3),
        "tokens": statistics.median(tokens),
        "rollout_tok_s": rate(rollouts),
        "step_tok_s": rate(steps),
        "peak_gb": round(peak_gb(), 2),
    }


def run_with_peers(script: str, keys: Sequence[str]) -> None:
    """Run `script` and every peer whose python is given in turn, and print ratios of medians.

    A ratio above 1 means that the peer takes that many times as long (or as much memory).
    """
    scripts = {"r1jax": [sys.executable, script]}
    for peer, python in (("trl", TRL_PYTHON.value), ("tunix", TUNIX_PYTHON.value)):
        if python:
            scripts[peer] = [python, str(HERE / "peers" / f"{peer}_step.py")]
    if len(scripts) == 1:
        raise SystemExit("--peers needs --trl_python or --tunix_python")
    runs: dict[str, list[dict[str, Any]]] = {peer: [] for peer in scripts}
    for _ in range(ROUNDS.value):
        for peer, command in scripts.items():
            runs[peer].append(run_once(command))
            print(json.dumps(runs[peer][-1]), flush=True)
    print(json.dumps({"workload": WORKLOAD.value, **machine(), "ratios": ratios(runs, keys)}))


def run_once(command: Sequence[str]) -> dict[str, Any]:
    """The JSON line that a benchmark prints last."""
    arguments = [f"--workload={WORKLOAD.value}", f"--steps={STEPS.value}"]
    load = os.getloadavg()[0]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "load": round(load, 2)}


def ratios(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], keys: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Per peer and key, the peer's median over ours; for rates the other way round."""

    def median(peer: str, key: str) -> float:
        values = [run[key] for run in runs[peer] if run.get(key) is not None]
        return statistics.median(values) if values else math.nan

    def ratio(peer: str, key: str) -> float:
        theirs, ours = median(peer, key), median("r1jax", key)
        return round(ours / theirs if key.endswith("tok_s") else theirs / ours, 2)

    return {peer: {key: ratio(peer, key) for key in keys} for peer in runs if peer != "r1jax"}
