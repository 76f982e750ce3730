"""How much of the device a step uses: model FLOPs over time, against the device's own best.

Model FLOPs are those of `models.flops`: the forward passes of sampling, and forward and backward of
every update. What is computed again (rematerialization), padding and speculation's misses are not
work of the model, so they lower the share, as they should.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import mesh as mesh_lib
from r1jax.models.flops import Work, attended_by, attended_up_to, forward_flops
from r1jax.monitor.memory import peak_memory
from r1jax.training.setup import Setup
from r1jax.types import Graded, PackedBatch

# TFLOP/s of dense bfloat16 products, by how jax names a kind of device: the makers' data sheets.
PEAKS: Mapping[str, float] = {
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H200": 989.0,
}
# Of a step's phases, those that come now and then and are no part of learning.
ASIDE = ("evaluate", "checkpoint")

PerformanceFn = Callable[
    [Graded | None, int, Sequence[PackedBatch], Mapping[str, float], bool], dict[str, float]
]


def make_performance(setup: Setup) -> PerformanceFn:
    """(graded, tokens sampled, updates' batches on the host, seconds by phase, whether the critic
    learned alone) -> metrics.

    Where the device's peak is not known, a product of matrices is timed now, once, while the
    device has nothing else to do.
    """
    devices = setup.mesh.devices.flatten()
    peak = PEAKS.get(devices[0].device_kind)
    name = "perf/mfu" if peak else "perf/share_of_matmul"
    best = peak or matmul_tflops(setup, large=devices[0].platform != "cpu")

    def performance(
        graded: Graded | None,
        tokens: int,
        batches: Sequence[PackedBatch],
        times: Mapping[str, float],
        alone: bool,
    ) -> dict[str, float]:
        seconds = max(sum(s for phase, s in times.items() if phase not in ASIDE), 1e-9)
        tflops = step_flops(setup, graded, tokens, batches, alone=alone) / seconds / 1e12
        return {
            "perf/tflops_per_device": tflops / len(devices),
            name: tflops / (best * len(devices)),
            "perf/tokens_per_second_per_device": tokens / seconds / len(devices),
            **peak_memory(),
        }

    return performance


def step_flops(
    setup: Setup,
    graded: Graded | None,
    tokens: int,
    batches: Sequence[PackedBatch],
    *,
    alone: bool = False,
) -> float:
    """Sampling counts for as many tokens as were sampled, those of dropped responses too, as if
    they were like those that were kept."""
    model = setup.module.config
    total = 0.0
    if graded is not None:
        kept = int(graded.rollouts.lengths.sum())
        total += forward_flops(model, sampling_work(setup, graded)) * tokens / max(kept, 1)
    # Under adapters no gradient of the frozen weights is needed.
    passes = 0 if alone else 2 if setup.trains_adapters else 3
    passes += setup.config.objective.needs_reference + (setup.config.old_policy == "before")
    works = [batch_work(setup, each) for each in batches]
    total += passes * sum(forward_flops(model, work) for work in works)
    if setup.config.rl.has_critic:  # one pass for its values, three to train it; no vocabulary
        total += 4 * sum(forward_flops(model, work._replace(predictions=0.0)) for work in works)
    return total


def sampling_work(setup: Setup, graded: Graded) -> Work:
    """Each prompt once; each response token but the last is read, and each is predicted."""
    model, rollouts = setup.module.config, graded.rollouts
    prompts_P = np.array([len(tokens) for tokens in rollouts.prompts.tokens])
    prompts_R = np.repeat(prompts_P, rollouts.samples_per_prompt)
    read_R = np.maximum(rollouts.lengths - 1, 0)
    alone = attended_up_to(model, prompts_R + read_R) - attended_up_to(model, prompts_R)
    return Work(
        tokens=float(prompts_P.sum() + read_R.sum()),
        attended=attended_up_to(model, prompts_P) + alone,
        predictions=float(rollouts.lengths.sum()),
    )


def batch_work(setup: Setup, batch: PackedBatch) -> Work:
    """One forward pass over a packed batch, its padding left out."""
    there = batch.segment_ids > 0
    contexts = batch.positions[there] + 1
    return Work(
        tokens=float(len(contexts)),
        attended=attended_by(setup.module.config, contexts),
        predictions=float(batch.mask.sum()),
    )


def matmul_tflops(setup: Setup, *, large: bool) -> float:
    """Of each device, while all of them multiply square matrices: the best of a few times.

    All at once, because devices may share what they compute with, as those of a CPU do.
    """
    size = 4096 if large else 1024
    with mesh_lib.use(setup.mesh):  # an array of no particular device then lies on all of them
        matrix = jnp.ones((size, size), setup.module.config.dtype)
        multiply = jax.jit(jnp.matmul)
        multiply(matrix, matrix).block_until_ready()
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            multiply(matrix, matrix).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12
