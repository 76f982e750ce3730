"""One device or eight, in any mesh: the same numbers, and every large array really cut up."""

import functools
import math

import jax
import numpy as np
import optax
import pytest
from helpers import TINY, counted_compiles, make_tiny, random_batch
from jax.sharding import PartitionSpec

from r1jax import mesh as mesh_lib
from r1jax.config import OptimConfig
from r1jax.errors import UserError
from r1jax.models.axes import logical_axes
from r1jax.objectives.policy import PolicyObjective
from r1jax.ops import packing
from r1jax.rollout import SamplingParams, generate
from r1jax.training import step
from r1jax.training.optimizer import make_optimizer

ONE = {"data": 1, "fsdp": 1, "tensor": 1}
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 2},
    "all": {"data": 2, "fsdp": 2, "tensor": 2},
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8], [2, 2], [9, 1], [3], [11, 12], [7, 7, 7]]
every_mesh = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "all" else pytest.mark.slow) for n in MESHES]
)


def shard(mesh, params):
    return jax.device_put(params, mesh_lib.param_shardings(mesh, params, logical_axes(params)))


@functools.cache
def make_update():
    """(module, optimizer, a jitted update)"""
    module, _ = make_tiny(tied_head=False, qkv_bias=True, remat="full")
    objective = PolicyObjective(kl="k3", kl_coef=0.1)
    loss = step.make_policy_loss(module, objective, temperature=1.0, on_policy=False)
    optimizer = make_optimizer(OptimConfig(lr=1e-2, eps=1e-3), 10)
    return module, optimizer, step.make_update(loss, step.make_policy_weights(objective), optimizer)


def place_state(mesh):
    _, optimizer, _ = make_update()
    _, params = make_tiny(tied_head=False, qkv_bias=True)
    state = step.init_state(params, optimizer)
    shardings = mesh_lib.state_shardings(
        mesh,
        state,
        optimizer,
        mesh_lib.param_shardings(mesh, params, logical_axes(params)),
    )
    return jax.device_put(state, shardings), shardings


@functools.cache
def updated(**axes):
    """(state after two updates, statistics of both, where it lay first, compiles of the second)"""
    mesh = mesh_lib.make_mesh(**{**ONE, **axes})
    _, _, update = make_update()
    batch = random_batch(np.random.default_rng(0), 20, longest=8, row_length=16, rows=16)
    split, used = packing.split_micro(batch, 8)
    with mesh_lib.use(mesh):
        state, shardings = place_state(mesh)
        state, first = update(state, split, np.int32(used))
        with counted_compiles() as compiles:
            state, second = update(state, split, np.int32(used))
    return state, jax.device_get((first, second)), shardings, compiles.count


@every_mesh
def test_updates_are_those_of_one_device(name):
    state, stats, _, _ = updated(**MESHES[name])
    wanted_state, wanted_stats, _, _ = updated()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    jax.tree.map(close, jax.device_get(state.params), jax.device_get(wanted_state.params))
    jax.tree.map(close, stats, wanted_stats)


@every_mesh
def test_updates_leave_every_array_where_it_lay_and_compile_once(name):
    """Else the next step compiles anew, and donated memory is of no use."""
    state, _, shardings, compiles = updated(**MESHES[name])
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert compiles == 0


@every_mesh
def test_parameters_and_moments_are_cut_up(name):
    """Each device holds its share of every matrix, and of both of its moments."""
    axes = {**ONE, **MESHES[name]}
    state, _ = place_state(mesh_lib.make_mesh(**axes))
    moments = [optax.tree.get(state.opt_state, name) for name in ("mu", "nu")]
    for tree in (state.params, *moments):
        block = tree["layers"]["block"]
        width, ffn, vocabulary = TINY.width, TINY.ffn, TINY.vocab_size
        wanted = {
            "gate": (TINY.layers, width // axes["fsdp"], ffn // axes["tensor"]),
            "down": (TINY.layers, ffn // axes["tensor"], width // axes["fsdp"]),
        }
        for matrix, shape in wanted.items():
            assert {s.data.shape for s in block[matrix].addressable_shards} == {shape}
        query = (TINY.layers, width // axes["fsdp"], TINY.heads // axes["tensor"], TINY.head_dim)
        assert block["attention"]["query"].addressable_shards[0].data.shape == query
        head = (width // axes["fsdp"], vocabulary // axes["tensor"])
        assert tree["head"].addressable_shards[0].data.shape == head
        assert tree["embedding"].addressable_shards[0].data.shape == head[::-1]


@every_mesh
def test_logits_are_those_of_one_device(name):
    module, params = make_tiny()
    tokens = np.random.default_rng(0).integers(0, TINY.vocab_size, (8, 16))
    mesh = mesh_lib.make_mesh(**{**ONE, **MESHES[name]})
    apply = jax.jit(lambda params, tokens: module.apply({"params": params}, tokens))
    wanted = apply(params, tokens)
    with mesh_lib.use(mesh):
        logits = apply(shard(mesh, params), tokens)
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


@pytest.mark.slow
@every_mesh
def test_responses_are_those_of_one_device(name):
    module, params = make_tiny()
    sampling = SamplingParams(max_tokens=8, stop_ids=(0, 5))
    sample = functools.partial(
        generate, module, prompts=PROMPTS, sampling=sampling, samples_per_prompt=2, seed=3
    )
    wanted = sample(params)
    mesh = mesh_lib.make_mesh(**{**ONE, **MESHES[name]})
    with mesh_lib.use(mesh):
        got = sample(shard(mesh, params))
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_array_equal(got.lengths, wanted.lengths)
    np.testing.assert_array_equal(got.finished, wanted.finished)
    np.testing.assert_allclose(got.logp, wanted.logp, atol=1e-5)


def test_an_axis_that_does_not_divide_stays_whole():
    mesh = mesh_lib.make_mesh(data=1, fsdp=4, tensor=2)
    axes = ("embed", "heads", "head_dim")
    assert mesh_lib.fitting_spec(mesh, (16, 4, 8), axes) == PartitionSpec("fsdp", "tensor", None)
    assert mesh_lib.fitting_spec(mesh, (16, 3, 8), axes) == PartitionSpec("fsdp", None, None)
    assert mesh_lib.fitting_spec(mesh, (18, 4, 8), axes) == PartitionSpec(None, "tensor", None)


def test_rows_are_split_over_data_and_fsdp():
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    batch = jax.device_put(np.zeros((3, 8, 5)), mesh_lib.batch_sharding(mesh, None))
    assert {s.data.shape for s in batch.addressable_shards} == {(3, 2, 5)}


def test_constrain_pins_inside_a_mesh_and_does_nothing_outside():
    x = np.zeros((8, 4))
    pin = jax.jit(lambda x: mesh_lib.constrain(x, "batch", None))
    assert len(pin(x).sharding.device_set) == 1
    mesh = mesh_lib.make_mesh(data=4, fsdp=2)
    with mesh_lib.use(mesh):
        assert pin(x).sharding.is_equivalent_to(mesh_lib.batch_sharding(mesh), 2)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ({"data": -1}, (8, 1, 1, 1)),
        ({"data": -1, "tensor": 2}, (4, 1, 1, 2)),
        ({"data": 2, "fsdp": 2}, (2, 2, 1, 1)),
        ({"data": -1, "expert": 2}, (4, 1, 2, 1)),
    ],
)
def test_a_mesh_takes_what_it_is_told(axes, shape):
    mesh = mesh_lib.make_mesh(**axes)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.size == math.prod(shape)
    assert tuple(mesh.shape) == mesh_lib.AXES


def test_too_large_a_mesh_is_refused_in_one_line():
    with pytest.raises(UserError, match="4 x 2 x 1 x 2 needs 16 devices, 8 found"):
        mesh_lib.make_mesh(data=4, fsdp=2, tensor=2)
