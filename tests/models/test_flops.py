"""Model FLOPs: by hand, as XLA counts them, and the same however they are added up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, compile_fully, make_tiny

from r1jax.models.config import MlaConfig, MoeConfig
from r1jax.models.flops import Work, attended_by, attended_up_to, forward_flops, layer_weights

DENSE = 2 * (16 * 4 * 8 + 2 * 16 * 2 * 8 + 4 * 8 * 16 + 3 * 16 * 32)  # of TINY's two layers


def test_weights_of_a_dense_model_by_hand():
    assert layer_weights(TINY) == DENSE
    assert layer_weights(dataclasses.replace(TINY, qk_norm=True, qkv_bias=True)) == DENSE
    assert layer_weights(dataclasses.replace(TINY, tied_head=False)) == DENSE


def test_of_experts_those_that_are_chosen_count():
    moe = MoeConfig(experts=4, chosen=2, ffn=8, shared=1, dense_layers=(0,), selection_bias=True)
    sparse = 16 * 4 + 2 * 3 * 16 * 8 + 3 * 16 * 8  # router, two of four experts, the shared one
    attention = DENSE / 2 - 3 * 16 * 32
    assert layer_weights(dataclasses.replace(TINY, moe=moe)) == DENSE / 2 + attention + sparse


def test_latent_attention_by_hand():
    mla = MlaConfig(kv_rank=6, query_rank=5, rope_dim=4, value_dim=10)
    config = dataclasses.replace(TINY, kv_heads=4, mla=mla)
    down, query = 16 * 5 + 16 * (6 + 4), 5 * 4 * 8
    up = 6 * 4 * (8 - 4 + 10)
    assert layer_weights(config) == 2 * (down + query + up + 4 * 10 * 16 + 3 * 16 * 32)
    assert forward_flops(config, Work(attended=1.0)) == 2 * 4 * (8 + 10)


@pytest.mark.parametrize("windows", [(), (3, 0)])
def test_places_attended_to_are_the_same_by_token_and_by_sequence(windows):
    config = dataclasses.replace(TINY, windows=windows)
    lengths = np.array([0, 1, 2, 3, 4, 11])
    contexts = np.concatenate([np.arange(1, length + 1) for length in lengths])
    brute = sum(
        min(int(context), window or 99) for context in contexts for window in windows or (0, 0)
    )
    assert attended_by(config, contexts) == attended_up_to(config, lengths) == brute


def test_as_xla_counts_them():
    """Of a model wide enough that products are nearly all; XLA attends to every place."""
    wide = {"vocab_size": 300, "layers": 1, "width": 256, "head_dim": 64, "ffn": 700}
    module, params = make_tiny(**wide)
    tokens_BT = jnp.zeros((1, 48), jnp.int32)
    where = {"positions": jnp.arange(48)[None], "segment_ids": jnp.ones_like(tokens_BT)}
    forward = jax.jit(lambda params, tokens: module.apply({"params": params}, tokens, **where))
    counted = compile_fully(forward.lower(params, tokens_BT)).cost_analysis()["flops"]
    ours = forward_flops(module.config, Work(48, 48**2, 48))
    assert ours < counted < 1.03 * ours
