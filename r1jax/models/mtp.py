"""Multi-token prediction: an auxiliary loss while training, drafts while decoding."""

from collections.abc import Mapping
from typing import Any, cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.models.config import ModelConfig
from r1jax.models.moe import Routing
from r1jax.models.transformer import Mtp, Transformer, embed, head_kernel
from r1jax.ops.kv_cache import LayerCache, make
from r1jax.ops.logprobs import token_logprobs
from r1jax.types import Params


def mtp_loss(
    module: Transformer,
    params: Params,
    hidden: Float[Array, "B T D"],
    *,
    targets: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Routing]]:
    """(sum of -log p of the token after the next one, how many were counted, the routing).

    The sum over the places whose next place is of the same sequence and in `mask`; DeepSeek-V3
    adds 0.3, later 0.1, times its mean to the loss. `hidden` is what `module` made of this batch,
    and gradients go through it. Not for rows whose sequences share a prompt: a place's next one is
    the one to its right.
    """
    inputs = (hidden, targets, positions, segment_ids)
    found = module.apply({"params": params}, *inputs, method="mtp_hidden")
    further, routing = cast(tuple[Array, dict[str, Routing]], found)
    counted = counted_places(mask, segment_ids)
    head = head_kernel(module.config, params)
    logp, _ = token_logprobs(further, head, _next(targets), mask_BC=counted)
    return -jnp.sum(jnp.where(counted, logp, 0)), jnp.sum(counted, dtype=jnp.float32), routing


def counted_places(
    mask: Bool[Array, "*M B T"], segment_ids: Int[Array, "*M B T"]
) -> Bool[Array, "*M B T"]:
    """Where there is a token after the next one, of the same sequence, that counts."""
    return _next(mask) & (_next(segment_ids) == segment_ids) & (segment_ids > 0)


def _next(x: Array) -> Array:
    """What is at the place to the right on the last axis; nothing behind the last."""
    return jnp.pad(x[..., 1:], [(0, 0)] * (x.ndim - 1) + [(0, 1)])


def mtp_prefill(
    config: ModelConfig,
    decode_params: Mapping[str, Any],
    hidden_PSD: Float[Array, "P S D"],
    next_tokens_PS: Int[Array, "P S"],
    lengths_P: Int[Array, " P"],
) -> tuple[Float[Array, "P D"], LayerCache]:
    """(hidden state of the first draft, the module's own cache) of prompts padded on the right.

    `hidden_PSD` are the states after each token of the prompts, `next_tokens_PS` the tokens behind
    them: the prompts from their second token on, and what was sampled first.
    """
    places = jnp.arange(next_tokens_PS.shape[1])
    positions = jnp.broadcast_to(places[None], next_tokens_PS.shape)
    segment_ids = (places[None] < lengths_P[:, None]).astype(jnp.int32)
    embedded = embed(decode_params["embedding"], next_tokens_PS, config)
    inputs = (hidden_PSD, embedded, positions, segment_ids)
    x, (k, v), _ = cast(Any, Mtp(config).apply({"params": decode_params["mtp"]}, *inputs))
    last = jnp.take_along_axis(x, (lengths_P - 1)[:, None, None], axis=1)[:, 0]
    return last, make(k, v)


def mtp_extend(
    config: ModelConfig,
    decode_params: Mapping[str, Any],
    hidden_RCD: Float[Array, "R C D"],
    next_tokens_RC: Int[Array, "R C"],
    prefix: LayerCache | None,
    suffix: LayerCache,
    *,
    prefix_lengths_R: Int[Array, " R"],
    filled_R: Int[Array, " R"],
) -> tuple[Float[Array, "R C D"], LayerCache]:
    """(hidden states from which the head drafts the tokens behind `next_tokens_RC`, suffix).

    `hidden_RCD` are the model's states behind what the module's caches hold, and `next_tokens_RC`
    the tokens behind these. Fed its own state and its own draft, the module drafts one further.
    """
    embedded = embed(decode_params["embedding"], next_tokens_RC, config)
    inputs = (hidden_RCD, embedded, prefix, suffix, prefix_lengths_R, filled_R)
    found = Mtp(config).apply({"params": decode_params["mtp"]}, *inputs, method="extend")
    return cast(tuple[Array, LayerCache], found)
