"""Speculative decoding: a step reads several tokens of a response, all but the first are drafts.

A token is decided by the logits and the random numbers of its place. So nothing has to be rejected
at random: behind every draft the step samples as plain decoding would, and keeps what it sampled as
long as the draft it read there was the token sampled before. The response is the one that plain
decoding gives, token for token up to rounding; a bad draft costs time only.

    ngram   what followed the latest earlier occurrence of the text's last tokens (prompt lookup)
    mtp     the multi-token-prediction module of a DeepSeek-V3, fed its own drafts; it samples with
            the random numbers of the place it drafts for, which makes agreement likeliest

The module's cache is the last of `prefix` and `suffix`. A place of it joins a state with the token
behind: a prompt of n tokens has n - 1, and the first token of a response makes place 0 of a suffix.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1jax.models import mtp, transformer
from r1jax.models.config import ModelConfig
from r1jax.ops.kv_cache import LayerCache
from r1jax.ops.logprobs import compute_logits
from r1jax.ops.sampling import SamplingArrays, sample, uniforms
from r1jax.rollout.state import Bank, Slots, Variant

NOTHING = -1  # a draft that is no token


class Text(NamedTuple):
    """Prompts and their responses so far; anything behind."""

    tokens: Int[Array, "B W"]


class States(NamedTuple):
    """What the last step read, and the MTP module has not: C places, the first `kept` of them."""

    hidden: Float[Array, "B C D"]
    next_tokens: Int[Array, "B C"]
    kept: Int[Array, " B"]


def empty_memory(config: ModelConfig, variant: Variant, slots: int, text_room: int) -> Any:
    count = 1 + variant.draft_tokens
    if variant.speculate == "ngram":
        return Text(jnp.zeros((slots, text_room), jnp.int32))
    if variant.speculate == "mtp":
        hidden = jnp.zeros((slots, count, config.width), config.compute_dtype)
        return States(hidden, jnp.zeros((slots, count), jnp.int32), jnp.ones(slots, jnp.int32))
    return None


def empty_beginnings(config: ModelConfig, variant: Variant, prompts: int, room: int) -> Any:
    """Of a bank: the prompts' tokens, or the states after their last ones."""
    if variant.speculate == "ngram":
        return jnp.zeros((prompts, room), jnp.int32)
    if variant.speculate == "mtp":
        return jnp.zeros((prompts, config.width), config.compute_dtype)
    return None


def remember(
    variant: Variant,
    beginnings: Any,
    places_P: Int[Array, " P"],
    tokens_PS: Int[Array, "P S"],
    last_PD: Float[Array, "P D"],
) -> Any:
    """A bank's beginnings with those of more prompts, at their places."""
    if variant.speculate == "ngram":
        return beginnings.at[places_P, : tokens_PS.shape[1]].set(tokens_PS, mode="drop")
    if variant.speculate == "mtp":
        return beginnings.at[places_P].set(last_PD, mode="drop")
    return None


def begin(memory: Any, bank: Bank, prompt: Int[Array, ""], first_U: Int[Array, " U"]) -> Any:
    """The memory of the slots of one unit, whose responses have their first token."""
    if isinstance(memory, Text):
        room = memory.tokens.shape[1] - bank.memory.shape[1]
        text = jnp.pad(bank.memory[prompt], (0, room))
        text_UW = jnp.broadcast_to(text[None], (len(first_U), len(text)))
        return Text(text_UW.at[:, bank.lengths[prompt]].set(first_U))
    if isinstance(memory, States):
        empty = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[: len(first_U)]), memory)
        return States(
            hidden=empty.hidden.at[:, 0].set(bank.memory[prompt]),
            next_tokens=empty.next_tokens.at[:, 0].set(first_U),
            kept=empty.kept + 1,
        )
    return None


def note(
    slots: Slots,
    hidden_BCD: Float[Array, "B C D"],
    tokens_BC: Int[Array, "B C"],
    kept_B: Int[Array, " B"],
) -> Slots:
    """Remember a step: the states after what it read, what it sampled there and how much stays."""
    memory = slots.memory
    if isinstance(memory, Text):
        put = jax.vmap(jax.lax.dynamic_update_slice_in_dim, in_axes=(0, 0, 0, None))
        memory = Text(put(memory.tokens, tokens_BC, _known(slots), 0))
    elif isinstance(memory, States):
        memory = States(hidden_BCD, tokens_BC, kept_B)
    return slots._replace(memory=memory)


def draft(
    config: ModelConfig,
    variant: Variant,
    decode_params: Mapping[str, Any],
    slots: Slots,
    sampling: SamplingArrays,
) -> tuple[Int[Array, "B d"], Slots]:
    """(drafts of the tokens behind each slot's last one, the slots)."""
    if variant.speculate == "ngram":
        text, known = slots.memory.tokens, _known(slots)
        return look_up(text, known, ngram=variant.ngram, count=variant.draft_tokens), slots
    if variant.speculate == "mtp":
        drafts, own = _ask_mtp(config, variant.draft_tokens, decode_params, slots, sampling)
        return drafts, slots._replace(suffix=[*slots.suffix[:-1], own])
    return jnp.zeros((len(slots.rows), 0), jnp.int32), slots


def _known(slots: Slots) -> Int[Array, " B"]:
    """How many tokens a slot's text has."""
    return slots.prefix_lengths + slots.filled + 1


def look_up(
    text_BW: Int[Array, "B W"], known_B: Int[Array, " B"], *, ngram: int, count: int
) -> Int[Array, "B d"]:
    """What followed the latest earlier occurrence of each text's last `ngram` tokens.

    Where it followed up to the end, the text is taken to repeat itself from there on.
    """
    places = jnp.arange(text_BW.shape[1])[None]
    follows = (places >= ngram) & (places < known_B[:, None])  # place = the first token behind
    for back in range(1, ngram + 1):
        last = jnp.take_along_axis(text_BW, jnp.maximum(known_B - back, 0)[:, None], axis=1)
        follows &= jnp.roll(text_BW, back, axis=1) == last
    start = jnp.max(jnp.where(follows, places, 0), axis=1, keepdims=True)
    period = jnp.maximum(known_B[:, None] - start, 1)
    drafts = jnp.take_along_axis(text_BW, start + jnp.arange(count)[None] % period, axis=1)
    return jnp.where(start > 0, drafts, NOTHING)


def prefill_mtp(
    config: ModelConfig,
    decode_params: Mapping[str, Any],
    hidden_PSD: Float[Array, "P S D"],
    tokens_PS: Int[Array, "P S"],
    lengths_P: Int[Array, " P"],
) -> LayerCache:
    """The module's cache of prompts. Its place of a prompt's last token is never looked at: the
    token behind is a response's."""
    next_tokens = jnp.roll(tokens_PS, -1, axis=1)
    _, own = mtp.mtp_prefill(config, decode_params, hidden_PSD, next_tokens, lengths_P)
    return transformer.pinned([own])[0]


def _ask_mtp(
    config: ModelConfig,
    count: int,
    decode_params: Mapping[str, Any],
    slots: Slots,
    sampling: SamplingArrays,
) -> tuple[Int[Array, "B d"], LayerCache]:
    """(drafts, the module's suffix with what the last step kept, and the drafts but the last)."""
    memory, own = slots.memory, slots.suffix[-1]
    extend = functools.partial(
        mtp.mtp_extend, config, decode_params, prefix_lengths_R=slots.prefix_lengths - 1
    )
    keys = jax.random.wrap_key_data(slots.keys)
    read = slots.filled + 1 - memory.kept  # places in the suffix
    inputs = (memory.hidden, memory.next_tokens, slots.prefix[-1])
    states, own = extend(*inputs, own, filled_R=read)
    state = transformer.take_last(states, memory.kept)
    drafts = []
    while True:
        taken = slots.filled + 1 + len(drafts)
        place = slots.starts + taken
        logits = compute_logits(state, decode_params["head"])
        drafts.append(sample(logits, uniforms(keys, place), place, sampling)[0])
        if len(drafts) == count:
            return jnp.stack(drafts, axis=1), own
        inputs = (state[:, None], drafts[-1][:, None], slots.prefix[-1])
        states, own = extend(*inputs, own, filled_R=taken)
        state = states[:, 0]
