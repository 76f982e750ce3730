"""The same responses on one device and on eight, however slots, caches and parameters are split."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers import TINY, counted_compiles, make_tiny

from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.models.axes import logical_axes
from r1jax.models.config import MlaConfig
from r1jax.rollout import RolloutConfig, SamplingParams, generate

SAMPLING = SamplingParams(max_tokens=9, stop_ids=(0, 3))
PROMPTS = [list(range(1, 2 + length)) for length in (3, 1, 9, 2, 17)]
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"data": 4, "tensor": 2},
    "all": {"data": 2, "fsdp": 2, "tensor": 2},
    "experts": {"data": 2, "expert": 2, "tensor": 2},
}
WAYS = {
    "few slots": RolloutConfig(slots=8, share_prompts="never", chunk=3, tail_from=1),
    "shared prompts": RolloutConfig(share_prompts="always", chunk=4),
    "prompts in waves": RolloutConfig(bank_tokens=64, share_prompts="never", chunk=5),
    "drafts": RolloutConfig(speculate="ngram", ngram=1, draft_tokens=2, slots=8, chunk=3),
}
# Ways whose responses are others, or whose model is: each is held to itself on one device.
DEEPSEEK = {
    "heads": 8,
    "kv_heads": 8,
    "head_dim": 10,
    "mla": MlaConfig(kv_rank=12, query_rank=6, rope_dim=4, value_dim=5),
    "mtp": True,
    "tied_head": False,
}
INT8 = {"int8_weights": True, "int8_cache": True, "share_prompts": "never"}
OWN_WAYS = {
    "int8": ({}, RolloutConfig(**INT8)),
    "int8, latent attention": (DEEPSEEK, RolloutConfig(**INT8)),
    "mtp": (DEEPSEEK, RolloutConfig(speculate="mtp", draft_tokens=2, slots=8)),
}


def sample(module, params, config, step=0):
    return generate(
        module,
        params,
        PROMPTS,
        sampling=SAMPLING,
        samples_per_prompt=3,
        seed=1,
        step=step,
        config=config,
    )


@functools.cache
def on_one_device():
    return sample(*make_tiny(), RolloutConfig(share_prompts="never"))


def split(mesh, params):
    return jax.device_put(params, mesh_lib.param_shardings(mesh, params, logical_axes(params)))


OTHERS = [
    pytest.param(name, "few slots", marks=pytest.mark.slow) for name in MESHES if name != "all"
] + [pytest.param(name, "drafts", marks=pytest.mark.slow) for name in ("data", "all")]
CASES = [*(("all", way) for way in WAYS if way != "drafts"), *OTHERS]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_eight_devices_give_the_responses_of_one(name, way):
    wanted = on_one_device()
    module, params = make_tiny()
    mesh = mesh_lib.make_mesh(**{"data": 1, **MESHES[name]})
    with mesh_lib.use(mesh):
        got = sample(module, split(mesh, params), WAYS[way])
    for field in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(got, field), getattr(wanted, field))
    np.testing.assert_allclose(got.logp, wanted.logp, atol=1e-5)


def test_eight_devices_give_the_responses_of_one_where_matrices_are_large():
    """One CPU multiplies its few rows otherwise: `linear.multiply`."""
    module = models.Transformer(dataclasses.replace(TINY, width=256, ffn=520, vocab_size=1040))
    params = models.init_params(module, 0)
    wanted = sample(module, params, RolloutConfig(share_prompts="never"))
    mesh = mesh_lib.make_mesh(**MESHES["all"])
    with mesh_lib.use(mesh):
        got = sample(module, split(mesh, params), WAYS["few slots"])
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.logp, wanted.logp, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", OWN_WAYS)
def test_eight_devices_give_what_one_gives_of_int8_and_with_the_models_own_drafts(way):
    model, config = OWN_WAYS[way]
    module, params = make_tiny(**model)
    wanted = sample(module, params, config)
    mesh = mesh_lib.make_mesh(**MESHES["all"])
    with mesh_lib.use(mesh):
        got = sample(module, split(mesh, params), config)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.logp, wanted.logp, atol=1e-5)


def test_a_second_rollout_on_eight_devices_compiles_nothing():
    """Arrays keep their layout from program to program."""
    module, params = make_tiny()
    mesh = mesh_lib.make_mesh(**MESHES["all"])
    with mesh_lib.use(mesh):
        params = split(mesh, params)
        sample(module, params, WAYS["few slots"])
        with counted_compiles() as compiles:
            sample(module, params, WAYS["few slots"], step=1)
    assert compiles.count == 0
