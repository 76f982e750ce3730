"""Adapters: what they compute, what is trained, saved and held; the base stays as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import TINY, compile_fully, make_tiny, random_batch

from r1jax import mesh as mesh_lib
from r1jax import models, rollout
from r1jax.config import OptimConfig
from r1jax.errors import UserError
from r1jax.models import lora
from r1jax.models.axes import PARAM_AXES, logical_axes
from r1jax.models.config import MlaConfig
from r1jax.models.hf import peft
from r1jax.ops import packing
from r1jax.ops.sampling import SamplingParams
from r1jax.training.adapters import adapter_loss, make_adapter_update
from r1jax.training.auxiliary import batch_shares
from r1jax.training.optimizer import make_optimizer
from r1jax.training.step import (
    Weights,
    init_state,
    make_supervised_loss,
    supervised_weights,
    update_step,
)

TOKENS = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
SCALE = 0.5
apply = jax.jit(lambda module, params: module.apply({"params": params}, TOKENS), static_argnums=0)


def make_adapters(params, *, rank=3, targets=tuple(lora.TARGETS), random=True):
    """`random`: B too, as after some training."""
    adapters = lora.init(params, rank=rank, targets=targets, seed=0)
    if not random:
        return adapters
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), adapters
    )


def merged_by_hand(params, adapters):
    """W + scale A B in float64, layer by layer, every projection as a plain matrix."""
    wanted = jax.tree.map(np.float64, params)
    for group in (wanted["layers"]["block"], wanted["layers"]["block"]["attention"]):
        own = adapters["layers"]["block"]
        own = own["attention"] if "query" in group else own
        for name in [name for name in group if name + lora.A in own]:
            kernel = group[name]
            for layer in range(len(kernel)):
                a, b = (np.float64(own[name + end][layer]) for end in (lora.A, lora.B))
                product = a.reshape(-1, a.shape[-1]) @ b.reshape(len(b), -1)
                kernel[layer] += SCALE * product.reshape(kernel[layer].shape)
    return wanted


def test_fresh_adapters_change_nothing():
    module, params = make_tiny()
    joined = lora.join(params, make_adapters(params, random=False), SCALE)
    np.testing.assert_array_equal(apply(module, joined), apply(module, params))
    assert lora.is_joined(joined)
    assert not lora.is_joined(params)


def test_joined_and_merged_are_the_sum():
    module, params = make_tiny()
    adapters = make_adapters(params)
    joined = lora.join(params, adapters, SCALE)
    merged = jax.jit(lora.merge)(joined)
    wanted = merged_by_hand(params, adapters)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), merged, wanted
    )
    logits = apply(module, joined)
    np.testing.assert_allclose(logits, apply(module, merged), atol=1e-5)
    assert abs(logits - apply(module, params)).max() > 0.1


MLA = {"kv_heads": 4, "mla": MlaConfig(kv_rank=12, query_rank=6, rope_dim=4, value_dim=5)}


@pytest.mark.parametrize("kind", [{}, MLA], ids=["dense", "latent attention"])
def test_the_sampler_has_the_adapters_too(kind):
    module, params = make_tiny(**kind)
    joined = lora.join(params, make_adapters(params), SCALE)
    sampling = SamplingParams(max_tokens=6)
    rollouts = rollout.generate(
        module, joined, TOKENS.tolist(), sampling=sampling, samples_per_prompt=2, seed=0
    )
    whole = np.concatenate([np.repeat(TOKENS, 2, axis=0), rollouts.tokens], axis=1)
    logits = jax.jit(module.apply)({"params": joined}, whole)
    logp = np.asarray(jax.nn.log_softmax(logits[:, 5:-1]))
    chosen = np.take_along_axis(logp, rollouts.tokens[..., None], 2)[..., 0]
    np.testing.assert_allclose(chosen, rollouts.logp, atol=1e-5)


def test_only_named_projections_have_adapters():
    _, params = make_tiny()
    adapters = make_adapters(params, targets=("query", "down"))
    assert set(adapters["layers"]["block"]) == {"attention", "down_lora_a", "down_lora_b"}
    assert set(adapters["layers"]["block"]["attention"]) == {"query_lora_a", "query_lora_b"}
    every = make_adapters(params, random=False)["layers"]["block"]
    few = make_adapters(params, targets=("down",), random=False)["layers"]["block"]
    np.testing.assert_array_equal(few["down_lora_a"], every["down_lora_a"])
    with pytest.raises(UserError, match="has none of these"):
        make_adapters(params, targets=("router",))


def small_batch():
    """(batch, used micro-batches)"""
    packed = random_batch(np.random.default_rng(0), 6, longest=8, row_length=16)
    batch, used = packing.split_micro(packed, 1)
    return batch, np.int32(used)


@pytest.mark.parametrize("lanes", [1, 2])
def test_an_update_trains_adapters_and_nothing_else(lanes):
    module, params = make_tiny()
    before = jax.tree.map(np.array, params)
    adapters = make_adapters(params)
    start = jax.tree.map(np.array, adapters)
    batch, used = small_batch()

    def loss(adapters):
        dense = lora.merge(lora.join(params, adapters, SCALE))
        flat = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(-1, leaf.shape[-1])), batch)
        weights = Weights(supervised_weights(flat), batch_shares(flat))
        return make_supervised_loss(module)(dense, flat, weights)[0]

    wanted = jax.jit(jax.grad(loss))(adapters)
    optimizer = optax.sgd(1.0)
    state = init_state(adapters, optimizer)
    given = (make_supervised_loss(module), supervised_weights, optimizer, params, SCALE)
    state, stats = make_adapter_update(*given, lanes=lanes)(state, batch, used)
    jax.tree.map(
        lambda new, old, grad: np.testing.assert_allclose(old - new, grad, atol=2e-6),
        *(state.params, start, wanted),
    )
    assert stats["grad_norm"] > 0
    jax.tree.map(np.testing.assert_array_equal, params, before)


@pytest.mark.parametrize("remat", ["full", pytest.param("dots", marks=pytest.mark.slow)])
def test_no_second_copy_of_the_model_is_held(remat):
    """What the update needs beside its arguments is less than the layers of the model."""
    sizes = {"layers": 16, "width": 128, "heads": 4, "kv_heads": 4, "head_dim": 32, "ffn": 512}
    module = models.Transformer(models.ModelConfig(vocab_size=24, remat=remat, **sizes))
    params = jax.eval_shape(functools.partial(models.init_params, module), 0)
    adapters = jax.eval_shape(
        functools.partial(lora.init, params, rank=2, targets=tuple(lora.TARGETS)), seed=0
    )
    optimizer = make_optimizer(OptimConfig(), 1)
    state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), adapters)
    step = functools.partial(
        update_step,
        loss_fn=adapter_loss(make_supervised_loss(module), SCALE),
        weigh=supervised_weights,
        optimizer=optimizer,
    )
    lowered = jax.jit(step, donate_argnums=0).lower(state, *small_batch(), params)
    compiled = compile_fully(lowered)
    layers = sum(leaf.size * 4 for leaf in jax.tree.leaves(params["layers"]))
    assert compiled.memory_analysis().temp_size_in_bytes < layers / 2


def test_split_over_devices_nothing_changes():
    module, params = make_tiny()
    adapters = make_adapters(params)
    whole = apply(module, lora.join(params, adapters, SCALE))
    mesh = mesh_lib.make_mesh(2, 2, 2)
    shardings = mesh_lib.param_shardings(mesh, adapters, lora.logical_axes(adapters, PARAM_AXES))
    split = jax.device_put(adapters, shardings)
    block = split["layers"]["block"]
    assert block["gate_lora_a"].sharding.spec == jax.P(None, "fsdp", None)
    assert block["attention"]["out_lora_a"].sharding.spec == jax.P(None, "tensor", None, None)
    with mesh_lib.use(mesh):
        joined = lora.join(
            jax.device_put(
                params,
                mesh_lib.param_shardings(mesh, params, logical_axes(params)),
            ),
            split,
            SCALE,
        )
        np.testing.assert_allclose(apply(module, joined), whole, atol=1e-5)


def test_a_frozen_base_in_bfloat16_adds_in_float32():
    module, params = make_tiny(dtype="bfloat16")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    adapters = make_adapters(params)
    merged = lora.merge(lora.join(params, adapters, SCALE))
    wanted = merged_by_hand(params, adapters)["layers"]["block"]["gate"]
    assert merged["layers"]["block"]["gate"].dtype == jnp.float32
    np.testing.assert_allclose(merged["layers"]["block"]["gate"], wanted, rtol=1e-5, atol=1e-6)
    assert apply(module, lora.join(params, adapters, SCALE)).dtype == jnp.float32


def test_an_export_is_merged(tmp_path):
    module, params = make_tiny(qkv_bias=True)
    joined = lora.join(params, make_adapters(params), SCALE)
    models.save_hf(module, joined, tmp_path / "out")
    _, loaded = models.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, loaded, jax.jit(lora.merge)(joined))


def test_peft_has_every_projection_of_every_layer(tmp_path):
    module, params = make_tiny()
    tensors = peft.to_tensors(module, make_adapters(params))
    assert len(tensors) == TINY.layers * 7 * 2
    prefix = "base_model.model.model.layers.1.self_attn."
    assert tensors[prefix + "o_proj.lora_A.weight"].shape == (3, TINY.heads * TINY.head_dim)
    assert tensors[prefix + "k_proj.lora_B.weight"].shape == (TINY.kv_heads * TINY.head_dim, 3)
