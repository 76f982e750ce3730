"""Choosing the next token: temperature, top-k and top-p without sorting, one uniform per row."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

_MASKED = -jnp.inf
_BISECTIONS = 32  # halvings until nothing lies between two bounds of 32 bits
_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How to sample. Changing a value never recompiles, but for the room that `max_tokens` asks,
    whether `return_logp` asks for more, and `top_k` with `record_kept`.

    The order is: bias, temperature, min_p, top_k, top_p of what top_k left. A token that may not
    come (forbidden, or a stop before `min_tokens`) has probability 0.
    """

    temperature: float = 1.0  # 0 = greedy
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    min_p: float = 0.0  # keeps tokens at least this likely as the likeliest; 0 = off
    max_tokens: int = 256
    min_tokens: int = 0  # no stop id before so many tokens
    stop_ids: tuple[int, ...] = ()  # the token that stops a response is part of it
    stop_strings: tuple[str, ...] = ()  # a response ends with the token that completes one
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    forbidden_ids: tuple[int, ...] = ()
    # Log-probs of the tokens: `Rollouts.logp` is under the distribution all this makes, which is
    # sampled from; "both" asks for `logp_plain` too, under the model's own.
    return_logp: Literal["processed", "both"] = "processed"
    # `Rollouts.kept`: the tokens that could have been drawn beside each one, `top_k` at most, so
    # that training can leave out what sampling left out.
    record_kept: bool = False

    def __post_init__(self) -> None:
        bias = self.logit_bias.values()
        problems = [
            (
                not 0 <= self.temperature < math.inf,
                f"temperature={self.temperature}: must be 0 (greedy) or more, and finite",
            ),
            (self.top_k < 0, f"top_k={self.top_k}: must be 0 (off) or more"),
            (not 0 < self.top_p <= 1, f"top_p={self.top_p}: must be in (0, 1]"),
            (not 0 <= self.min_p <= 1, f"min_p={self.min_p}: must be in [0, 1]; 0 is off"),
            (self.max_tokens < 1, f"max_tokens={self.max_tokens}: must be 1 or more"),
            (
                not 0 <= self.min_tokens <= self.max_tokens,
                f"min_tokens={self.min_tokens}: must be in [0, max_tokens={self.max_tokens}]",
            ),
            (
                self.return_logp not in ("processed", "both"),
                f"return_logp={self.return_logp!r}: must be 'processed' or 'both'",
            ),
            (
                self.record_kept and not self.top_k,
                "record_kept: needs a top_k, so many tokens are written down for each place",
            ),
            ("" in self.stop_strings, "stop_strings: an empty string would stop at once"),
            (
                not all(map(math.isfinite, bias)),
                "logit_bias: must be finite; forbidden_ids is for tokens that may not come",
            ),
        ]
        for wrong, message in problems:
            if wrong:
                raise ValueError(f"sampling.{message}")


class SamplingArrays(NamedTuple):
    """`SamplingParams` as device arrays."""

    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    top_p: Float[Array, ""]
    min_p: Float[Array, ""]
    max_tokens: Int[Array, ""]
    min_tokens: Int[Array, ""]
    stops_V: Bool[Array, " V"]  # True = this token ends a response
    bias_V: Float[Array, " V"]  # -inf where forbidden
    biased: Bool[Array, ""]

    @classmethod
    def of(cls, params: SamplingParams, vocab_size: int) -> "SamplingArrays":
        named = [*params.stop_ids, *params.forbidden_ids, *params.logit_bias]
        outside = [token for token in named if not 0 <= token < vocab_size]
        if outside:
            raise ValueError(
                f"sampling names token {outside[0]}, the vocabulary has {vocab_size}: check "
                "stop_ids, forbidden_ids and logit_bias"
            )
        stops = np.zeros(vocab_size, bool)
        stops[list(params.stop_ids)] = True
        bias = np.zeros(vocab_size, np.float32)
        for token, value in params.logit_bias.items():
            bias[token] = value
        bias[list(params.forbidden_ids)] = -np.inf
        if not np.isfinite(bias).any():
            raise ValueError("sampling.forbidden_ids: forbids every token of the vocabulary")
        return cls(
            temperature=jnp.asarray(params.temperature, jnp.float32),
            top_k=jnp.asarray(params.top_k, jnp.int32),
            top_p=jnp.asarray(params.top_p, jnp.float32),
            min_p=jnp.asarray(params.min_p, jnp.float32),
            max_tokens=jnp.asarray(params.max_tokens, jnp.int32),
            min_tokens=jnp.asarray(params.min_tokens, jnp.int32),
            stops_V=jnp.asarray(stops),
            bias_V=jnp.asarray(bias),
            biased=jnp.asarray(bool(bias.any())),
        )


def row_keys(
    seed: int | Array,
    step: int | Array,
    prompt_ids_R: UInt32[Array, " R"],
    samples_R: UInt32[Array, " R"],
) -> Array:
    """One key per response, the same whatever slot, batch or device it is decoded in."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    per_prompt = jax.vmap(lambda prompt: jax.random.fold_in(key, prompt))(prompt_ids_R)
    return jax.vmap(jax.random.fold_in)(per_prompt, samples_R)


def uniforms(keys_R: Array, positions_R: Int[Array, " R"]) -> Float[Array, "R 2"]:
    """Two numbers in [0, 1) per row, keyed by the row's key and its place in the response."""

    def pair(key: Array, position: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, position), (2,))

    return jax.vmap(pair)(keys_R, positions_R)


def sample(
    logits_RV: Float[Array, "R V"],
    uniform_R2: Float[Array, "R 2"],
    taken_R: Int[Array, " R"],
    sampling: SamplingArrays,
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """(token, its log-prob under the distribution sampled from), `taken` tokens being there.

    Greedy is the limit of temperature to zero; its log-prob is reported at temperature 1.
    """
    return choose(shape(logits_RV, taken_R, sampling), uniform_R2, sampling)


def shape(
    logits_RV: Float[Array, "R V"], taken_R: Int[Array, " R"], sampling: SamplingArrays
) -> Float[Array, "R V"]:
    """The logits to sample from; -inf is what may not come."""
    greedy = sampling.temperature == 0
    adjusting = sampling.biased | jnp.any(taken_R < sampling.min_tokens - 1)
    logits = jax.lax.cond(
        adjusting, lambda x: _adjust(x, taken_R, sampling), lambda x: x, logits_RV
    )
    logits = logits / jnp.where(greedy, jnp.float32(1), sampling.temperature)
    filtering = (sampling.top_k > 0) | (sampling.top_p < 1) | (sampling.min_p > 0)
    return jax.lax.cond(
        filtering & ~greedy, lambda x: filter_logits(x, sampling), lambda x: x, logits
    )


def choose(
    shaped_RV: Float[Array, "R V"], uniform_R2: Float[Array, "R 2"], sampling: SamplingArrays
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """`sample` from what `shape` gave."""
    return jax.lax.cond(sampling.temperature == 0, _take_highest, draw, shaped_RV, uniform_R2)


def kept_tokens(
    shaped_RV: Float[Array, "R V"],
    tokens_R: Int[Array, " R"],
    count: int,
    sampling: SamplingArrays,
) -> Int[Array, "R M"]:
    """What could have been drawn, the likeliest first, then -1; the tokens drawn are among it, also
    where more than `count` are equally likely at the edge. All -1, which is no restriction, where
    nothing is left out: greedy."""
    least = min(count, shaped_RV.shape[1])
    logits, kept = jax.lax.top_k(shaped_RV, least)
    kept = jnp.where(jnp.isfinite(logits), kept, -1)
    kept = jnp.pad(kept, ((0, 0), (0, count - least)), constant_values=-1)
    is_there = jnp.any(kept == tokens_R[:, None], axis=-1)
    kept = kept.at[:, -1].set(jnp.where(is_there, kept[:, -1], tokens_R))
    return jnp.where(sampling.temperature == 0, -1, kept).astype(jnp.int32)


def plain_logp(logits_RV: Float[Array, "R V"], tokens_R: Int[Array, " R"]) -> Float[Array, " R"]:
    """The model's own log-prob of tokens, whatever distribution they were sampled from."""
    chosen = jnp.take_along_axis(logits_RV, tokens_R[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits_RV, axis=-1)


def _adjust(logits_RV: Array, taken_R: Array, sampling: SamplingArrays) -> Array:
    """Biased logits; no stop where this token would leave a response too short."""
    too_soon_R = taken_R + 1 < sampling.min_tokens
    barred = too_soon_R[:, None] & sampling.stops_V[None]
    return jnp.where(barred, _MASKED, logits_RV + sampling.bias_V[None])


def _take_highest(
    logits_RV: Float[Array, "R V"], _: Float[Array, "R 2"]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    token = jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)
    return token, jnp.max(logits_RV, axis=-1) - jax.nn.logsumexp(logits_RV, axis=-1)


def filter_logits(logits_RV: Float[Array, "R V"], sampling: SamplingArrays) -> Float[Array, "R V"]:
    """min_p, top-k, then top-p of what is left; what falls out is -inf. Ties at the edge stay."""
    floor = jnp.max(logits_RV, axis=-1, keepdims=True) + jnp.log(sampling.min_p)
    logits = jnp.where(logits_RV >= floor, logits_RV, _MASKED)
    wanted = jnp.broadcast_to(sampling.top_k.astype(jnp.float32), logits.shape[:1])
    logits = jax.lax.cond(
        sampling.top_k > 0,
        lambda x: _keep_above(x, jnp.ones_like(x), wanted),
        lambda x: x,
        logits,
    )
    mass = jnp.broadcast_to(sampling.top_p, logits.shape[:1])
    return jax.lax.cond(
        sampling.top_p < 1,
        lambda x: _keep_above(x, jax.nn.softmax(x, axis=-1), mass),
        lambda x: x,
        logits,
    )


def _keep_above(
    logits_RV: Float[Array, "R V"], mass_RV: Float[Array, "R V"], wanted_R: Float[Array, " R"]
) -> Float[Array, "R V"]:
    """Keep the fewest largest logits whose mass reaches `wanted`, found by halving the threshold.

    A sort would touch some hundred times the memory on an accelerator. What is halved is the number
    of floats between the bounds, not their distance: exact also where one logit is -1e30.
    """
    lowest = jnp.min(jnp.where(jnp.isfinite(logits_RV), logits_RV, jnp.inf), axis=-1)
    low, high = _float_to_rank(lowest), _float_to_rank(jnp.max(logits_RV, axis=-1))
    # Reaching is judged with a little room: a sum over the vocabulary is rounded.
    enough = wanted_R * jnp.float32(1 - 1e-6)

    def kept(rank_R: Array) -> Array:
        return logits_RV >= _rank_to_float(rank_R)[:, None]

    def reaches(rank_R: Array) -> Array:
        return jnp.sum(jnp.where(kept(rank_R), mass_RV, jnp.float32(0)), axis=-1) >= enough

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, without overflow
        ok = reaches(middle)
        return jnp.where(ok, middle, low), jnp.where(ok, high, middle)

    # Invariant: `low` reaches the mass. If even the single largest logit does, keep just that.
    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return jnp.where(kept(jnp.where(reaches(high), high, low)), logits_RV, _MASKED)


def _float_to_rank(x: Float[Array, " R"]) -> Int[Array, " R"]:
    """Neighbouring floats to neighbouring integers: negative floats' bits count backwards."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _rank_to_float(rank: Int[Array, " R"]) -> Float[Array, " R"]:
    bits = jnp.where(rank < 0, rank ^ 0x7FFFFFFF, rank)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def draw(
    logits_RV: Float[Array, "R V"], uniform_R2: Float[Array, "R 2"]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """(token, its log-prob), inverting the cumulative distribution in two levels: a block, then
    its token.

    Two random numbers per row; the Gumbel trick needs one per row and token, which on a CPU costs
    more than the model. One for each level: what rounding does to the sums over all blocks then
    moves the edges of blocks only, not those of all tokens, so that programs which round otherwise
    draw the same (a number that falls between two roundings of an edge is two tokens). The
    normaliser of the log-prob is the sum that the inversion needs anyway.
    """
    rows, vocabulary = logits_RV.shape
    blocks = -(-vocabulary // _BLOCK)
    highest = jnp.max(logits_RV, axis=-1, keepdims=True)
    weights = jnp.exp(logits_RV - highest)
    weights = jnp.pad(weights, ((0, 0), (0, blocks * _BLOCK - vocabulary)))
    weights = weights.reshape(rows, blocks, _BLOCK)
    mass = jnp.sum(weights, axis=-1)  # [R, blocks]
    total = jnp.sum(mass, axis=-1)
    block = _invert(mass, uniform_R2[:, 1] * total)
    inside = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]  # [R, _BLOCK]
    mass_inside = jnp.take_along_axis(mass, block[:, None], axis=1)[:, 0]
    token = block * _BLOCK + _invert(inside, uniform_R2[:, 0] * mass_inside)
    chosen = jnp.take_along_axis(logits_RV, token[:, None], axis=-1)[:, 0]
    return token, chosen - highest[:, 0] - jnp.log(total)


def _invert(mass_RN: Float[Array, "R N"], target_R: Float[Array, " R"]) -> Int[Array, " R"]:
    """First place whose running sum exceeds `target`.

    Only a place with mass is taken, the last of them if rounding leaves none: the sums of a
    parallel scan can rise or fall a little over places that add nothing.
    """
    running = jnp.cumsum(mass_RN, axis=-1)
    places = jnp.arange(mass_RN.shape[1])[None]
    possible = mass_RN > 0
    exceeds = possible & (running > target_R[:, None])
    first = jnp.min(jnp.where(exceeds, places, places.size), axis=-1)
    last = jnp.max(jnp.where(possible, places, 0), axis=-1)
    return jnp.minimum(first, last)
