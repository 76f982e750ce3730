"""What a step's speed is measured against, and the work that counts as done."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from r1jax import mesh as mesh_lib
from r1jax.config import from_config_dict
from r1jax.models.flops import Work, forward_flops
from r1jax.monitor import memory
from r1jax.ops import packing
from r1jax.training import performance
from r1jax.training.setup import make_setup
from r1jax.types import Graded, PackedBatch, PromptBatch, Rollouts


@pytest.fixture(scope="module")
def setup():
    config = from_config_dict({"model": {"layers": 1}, "mesh": {"data": 1}})
    with (setup := make_setup(config)).grader:
        yield setup


def make_graded() -> Graded:
    """Two prompts of 3 and 5 tokens, two responses each."""
    lengths = np.array([1, 2, 4, 3], np.int32)
    prompts = PromptBatch(
        np.arange(2), (np.zeros(3, np.int32), np.zeros(5, np.int32)), ({"question": "?"},) * 2
    )
    zeros = np.zeros(4, np.float32)
    rollouts = Rollouts(
        prompts=prompts,
        tokens=np.zeros((4, 4), np.int32),
        logp=np.zeros((4, 4), np.float32),
        lengths=lengths,
        finished=np.ones(4, bool),
    )
    flags = np.ones(4, bool)
    return Graded(rollouts, ("",) * 4, zeros, flags, flags, flags, (None,) * 4, {})


def make_batch(share_prompts: bool) -> PackedBatch:
    """What `make_graded` is packed to, each response behind its prompt."""
    graded = make_graded()
    sequences = [
        packing.Sequence(
            tokens=np.zeros(prompt + length, np.int32),
            mask=np.ones(length, bool),
            advantages=np.zeros(length),
            logp_behavior=np.zeros(length),
            prompt_id=row // 2,
        )
        for row, (prompt, length) in enumerate(
            zip((3, 3, 5, 5), graded.rollouts.lengths, strict=True)
        )
    ]
    return packing.pack(sequences, row_length=16, share_prompts=share_prompts)


def test_the_work_of_sampling_by_hand(setup):
    """Contexts: a prompt's own once, then those of the response tokens that are read."""
    work = performance.sampling_work(setup, make_graded())
    contexts = [*range(1, 4), *range(1, 6)]  # prompts
    contexts += [4, *(6, 7, 8), *(6, 7)]  # all but the last token of each response
    assert work == Work(tokens=len(contexts), attended=sum(contexts), predictions=10)


def test_padding_is_no_work_and_a_shared_prompt_is_read_once(setup):
    alone = performance.batch_work(setup, make_batch(False))
    assert alone.predictions == 10
    assert alone.tokens == 3 + 4 + 8 + 7  # nothing is predicted from a response's last token
    assert alone.attended == sum(n * (n + 1) / 2 for n in (3, 4, 8, 7))
    shared = performance.batch_work(setup, make_batch(True))
    assert shared == performance.sampling_work(setup, make_graded())
    assert shared.tokens == alone.tokens - 3 - 5


def test_an_update_is_three_forward_passes_and_dropped_samples_count(setup):
    graded, batch = make_graded(), make_batch(False)
    model = setup.module.config
    sampled = forward_flops(model, performance.sampling_work(setup, graded))
    learned = forward_flops(model, performance.batch_work(setup, batch))
    flops = performance.step_flops
    assert flops(setup, graded, 10, [batch, batch]) == pytest.approx(sampled + 6 * learned)
    assert flops(setup, graded, 20, []) == pytest.approx(2 * sampled)
    assert flops(setup, None, 7, []) == 0
    objective = dataclasses.replace(setup.config.objective, kl="k3", kl_coef=0.1)
    config = dataclasses.replace(setup.config, objective=objective)
    with_reference = dataclasses.replace(setup, config=config)
    assert flops(with_reference, None, 0, [batch]) == pytest.approx(4 * learned)
    critic = from_config_dict({"rl": {"advantage": "gae"}})
    values = performance.batch_work(setup, batch)._replace(predictions=0)
    assert flops(dataclasses.replace(setup, config=critic), None, 0, [batch]) == pytest.approx(
        3 * learned + 4 * forward_flops(model, values)
    )
    alone = flops(dataclasses.replace(setup, config=critic), None, 0, [batch], alone=True)
    assert alone == pytest.approx(4 * forward_flops(model, values))


def test_the_share_is_of_the_peak_where_it_is_known_else_of_a_measured_product(setup, monkeypatch):
    graded, batch = make_graded(), make_batch(False)
    times = {"rollout": 1.5, "update": 0.5, "evaluate": 100.0, "checkpoint": 50.0}
    flops = performance.step_flops(setup, graded, 10, [batch])
    measured = performance.make_performance(setup)(graded, 10, [batch], times, False)
    assert measured["perf/tflops_per_device"] == pytest.approx(flops / 2 / 1e12)
    assert measured["perf/tokens_per_second_per_device"] == 5
    assert 0 < measured["perf/share_of_matmul"] < 1
    assert "perf/mfu" not in measured
    kind = jax.devices()[0].device_kind
    monkeypatch.setattr(performance, "PEAKS", {kind: 2e-6})
    monkeypatch.setattr(performance, "matmul_tflops", None)  # not measured then
    known = performance.make_performance(setup)(graded, 10, [batch], times, False)
    assert known["perf/mfu"] == pytest.approx(flops / 2 / 1e12 / 2e-6)
    assert "perf/share_of_matmul" not in known


def test_every_device_multiplies_while_one_is_timed(setup, monkeypatch):
    """Eight devices of a CPU are the same cores: one alone would promise eight times too much."""
    used, compiled = [], jax.jit

    def watched(function):
        def call(*arrays):
            product = compiled(function)(*arrays)
            used.append(len(product.devices()))
            return product

        return call

    monkeypatch.setattr(jax, "jit", watched)
    mesh = mesh_lib.make_mesh(data=8, fsdp=1, tensor=1, expert=1)
    assert performance.matmul_tflops(dataclasses.replace(setup, mesh=mesh), large=False) > 0
    assert set(used) == {8}


def test_memory_says_whose_it_is(monkeypatch):
    peak = memory.peak_memory()
    assert peak.keys() == {"memory/process_peak_gb"}  # a CPU says nothing of itself
    assert 0.05 < peak["memory/process_peak_gb"] < 100
    devices = [
        types.SimpleNamespace(memory_stats=lambda n=n: {"peak_bytes_in_use": n * 1e9})
        for n in (3, 7, 5)
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.peak_memory() == {"memory/device_peak_gb": 7.0}
