"""Routing, its statistics and its balance; the same numbers wherever the experts are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, make_tiny

from r1jax import mesh as mesh_lib
from r1jax.models import moe
from r1jax.models.axes import logical_axes
from r1jax.models.config import MlaConfig, MoeConfig
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout import generate

QWEN = MoeConfig(8, chosen=3, ffn=8, normalized=True)
DEEPSEEK = MoeConfig(
    8,
    chosen=3,
    ffn=8,
    shared=1,
    dense_layers=(0,),
    score="sigmoid",
    selection_bias=True,
    normalized=True,
    scale=2.5,
    groups=4,
    chosen_groups=2,
)
MESHES = {
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 8},
    "expert": {"expert": 8},
    "all": {"fsdp": 2, "expert": 2, "tensor": 2},
}
every_mesh = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "all" else pytest.mark.slow) for n in MESHES]
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, TINY.vocab_size, (8, 16)))
SEGMENTS = jnp.array([[1] * 7 + [2] * 6 + [0] * 3] * 8)


def run(module, params, tokens=TOKENS, segment_ids=SEGMENTS):
    inputs = (tokens, None, segment_ids)
    return module.apply({"params": params}, *inputs, method="hidden_and_routing")


@functools.cache
def make_gradient():
    """(module, parameters, jitted ((loss, (hidden, routing)), gradient)): all of DeepSeek-V3."""
    mla = MlaConfig(kv_rank=12, query_rank=6, rope_dim=4, value_dim=5)
    module, params = make_tiny(moe=DEEPSEEK, mla=mla, kv_heads=4, mtp=True, remat="full")

    def loss(params, tokens):
        hidden, routing = run(module, params, tokens)
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        further, more = module.apply(
            {"params": params}, hidden, tokens, places, SEGMENTS, method="mtp_hidden"
        )
        routing = routing | more
        both = jnp.sin(hidden) + jnp.cos(further)
        counted = jnp.where(SEGMENTS[..., None] > 0, both, 0)
        return jnp.sum(counted) + moe.balance_loss(DEEPSEEK, routing), (hidden, routing)

    return module, params, jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def on_one_device():
    _, params, gradient = make_gradient()
    return jax.device_get(gradient(params, TOKENS))


def split(name, params):
    mesh = mesh_lib.make_mesh(**{"data": 1, **MESHES[name]})
    return mesh, jax.device_put(
        params, mesh_lib.param_shardings(mesh, params, logical_axes(params))
    )


@every_mesh
@pytest.mark.slow
def test_loss_gradient_and_routing_are_those_of_one_device(name):
    _, params, gradient = make_gradient()
    mesh, params = split(name, params)
    with mesh_lib.use(mesh):
        (loss, (hidden, routing)), grads = jax.device_get(gradient(params, TOKENS))
    (wanted, (wanted_hidden, wanted_routing)), wanted_grads = on_one_device()
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(hidden, wanted_hidden, atol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, routing, wanted_routing)
    gaps = jax.tree.map(lambda g, w: np.linalg.norm(g - w), grads, wanted_grads)
    norms = jax.tree.map(np.linalg.norm, wanted_grads)
    jax.tree.map(lambda gap, norm: gap <= 1e-5 * norm or 1 / 0, gaps, norms)


@every_mesh
def test_each_device_holds_its_experts(name):
    _, params, _ = make_gradient()
    mesh, params = split(name, params)
    gate = params["layers"]["block"]["moe"]["expert_gate"]
    ways = mesh.shape
    shape = (1, 8 // ways["expert"], TINY.width // ways["fsdp"], DEEPSEEK.ffn // ways["tensor"])
    assert gate.sharding.shard_shape(gate.shape) == shape


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_responses_are_those_of_one_device(name):
    module, params, _ = make_gradient()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8], [2, 2], [9, 1], [3], [11, 12], [7, 7, 7]]
    sampling = SamplingParams(max_tokens=6)
    sample = functools.partial(
        generate, module, prompts=prompts, sampling=sampling, samples_per_prompt=1, seed=3
    )
    wanted = sample(params)
    mesh, params = split(name, params)
    with mesh_lib.use(mesh):
        got = sample(params)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.logp, wanted.logp, atol=1e-5)


@pytest.mark.slow
def test_experts_that_do_not_divide_are_held_by_all():
    module, params = make_tiny(moe=dataclasses.replace(QWEN, experts=6))
    wanted, _ = jax.jit(functools.partial(run, module))(params)
    mesh = mesh_lib.make_mesh(data=1, expert=4)
    with mesh_lib.use(mesh):
        hidden, _ = jax.jit(functools.partial(run, module))(params)
    np.testing.assert_allclose(hidden, wanted, atol=1e-5)


def test_padding_neither_counts_nor_reaches_an_expert():
    _, params, gradient = make_gradient()
    other = np.where(SEGMENTS > 0, TOKENS, (TOKENS + 5) % TINY.vocab_size)
    routing = on_one_device()[0][1][1]["layers"]
    np.testing.assert_array_equal(routing.tokens, [8 * 13])
    np.testing.assert_array_equal(routing.load.sum(axis=-1), routing.tokens * DEEPSEEK.chosen)
    np.testing.assert_allclose(routing.probability.sum(axis=-1), routing.tokens, rtol=1e-5)
    (loss, (_, other_routing)), grads = gradient(params, other)
    jax.tree.map(np.testing.assert_array_equal, other_routing["layers"], routing)
    assert loss == on_one_device()[0][0]
    wanted = on_one_device()[1]["layers"]["block"]["moe"]
    jax.tree.map(np.testing.assert_array_equal, grads["layers"]["block"]["moe"], wanted)


def test_the_balance_loss_is_that_of_switch_transformers_over_all_layers():
    """As transformers has it: tests/oracle/test_models.py compares with that itself."""
    module, params = make_tiny(moe=QWEN)
    _, routing = jax.jit(functools.partial(run, module))(params)
    load, probability, tokens = (np.float64(leaf).sum(axis=0) for leaf in routing["layers"])
    wanted = QWEN.experts * sum((load / tokens) * (probability / tokens))
    np.testing.assert_allclose(moe.balance_loss(QWEN, routing), wanted, rtol=1e-6)
    even = moe.Routing(jnp.full((2, 8), 3.0), jnp.full((2, 8), 1.0), jnp.full(2, 8.0))
    np.testing.assert_allclose(moe.balance_loss(QWEN, {"layers": even}), QWEN.chosen, rtol=1e-6)


def test_the_bias_has_no_gradient():
    grads = on_one_device()[1]["layers"]["block"]["moe"]
    assert not grads["router_bias"].any()
    assert grads["router"].any()


def test_rebalancing_evens_the_load_and_touches_nothing_else():
    module, params = make_tiny(moe=dataclasses.replace(DEEPSEEK, groups=1, chosen_groups=1))
    rng = np.random.default_rng(0)

    @jax.jit
    def step(params, tokens):
        _, routing = run(module, params, tokens, jnp.ones_like(tokens))
        return moe.rebalance(params, routing, speed=0.01), routing["layers"].load[0]

    loads, start = [], params
    for _ in range(150):
        params, load = step(params, jnp.array(rng.integers(0, TINY.vocab_size, (8, 64))))
        loads.append(load)
    mean = DEEPSEEK.chosen * 8 * 64 / DEEPSEEK.experts
    before, after = loads[0], np.mean(loads[-20:], axis=0)
    print(f"load / mean: {before / mean} -> {after / mean}")
    assert np.abs(before / mean - 1).max() > 0.8
    assert np.abs(after / mean - 1).max() < 0.15
    blocks = [tree["layers"]["block"]["moe"].copy() for tree in (params, start)]
    assert not np.array_equal(*(block.pop("router_bias") for block in blocks))
    jax.tree.map(np.testing.assert_array_equal, *blocks)


def test_one_step_of_rebalancing_moves_each_bias_by_the_speed():
    params = {"layers": {"block": {"moe": {"router_bias": jnp.zeros((1, 4))}}}}
    routing = {"layers": moe.Routing(jnp.array([[1.0, 3.0, 2.0, 2.0]]), None, None)}
    moved = moe.rebalance(params, routing, speed=0.5)["layers"]["block"]["moe"]["router_bias"]
    np.testing.assert_array_equal(moved, [[0.5, -0.5, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": "relu"}, "score='relu'"),
        ({"groups": 3}, "groups=3"),
        ({"groups": 8}, "no two best"),
        ({"chosen": 9}, "chosen=9"),
        ({"groups": 4, "chosen": 4}, "chosen=4"),
        ({"dense_layers": (2,)}, "dense_layers"),
    ],
)
def test_impossible_mixtures_are_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        make_tiny(moe=dataclasses.replace(QWEN, **changes))


def test_layers_of_a_kind_are_one_stack():
    def stacks(layers, dense):
        config = dataclasses.replace(
            TINY, layers=layers, moe=dataclasses.replace(QWEN, dense_layers=dense)
        )
        return [tuple(stack) for stack in config.stacks]

    assert TINY.stacks == (("layers", 0, 2, False),)
    assert stacks(5, (0, 1)) == [("layers_0", 0, 2, False), ("layers", 2, 3, True)]
    assert stacks(3, (1,)) == [
        ("layers_0", 0, 1, True),
        ("layers_1", 1, 1, False),
        ("layers", 2, 1, True),
    ]
    assert stacks(2, (0, 1)) == [("layers", 0, 2, False)]
