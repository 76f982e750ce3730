"""Choosing the next token: temperature, top-k and top-p without sorting, one uniform per row."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

_MASKED = -jnp.inf
_BISECTIONS = 32  # halvings until nothing lies between two bounds of 32 bits
_BLOCK = 64
MAX_STOP_IDS = 8


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How to sample. Changing a value never recompiles, but for `max_tokens`: the room of a row."""

    temperature: float = 1.0  # 0 = greedy
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    max_tokens: int = 256
    stop_ids: tuple[int, ...] = ()  # the token that stops a response is part of it

    def __post_init__(self) -> None:
        problems = [
            (self.temperature < 0, f"temperature={self.temperature}: must be 0 (greedy) or more"),
            (self.top_k < 0, f"top_k={self.top_k}: must be 0 (off) or more"),
            (not 0 < self.top_p <= 1, f"top_p={self.top_p}: must be in (0, 1]"),
            (self.max_tokens < 1, f"max_tokens={self.max_tokens}: must be 1 or more"),
            (
                len(self.stop_ids) > MAX_STOP_IDS,
                f"stop_ids: {len(self.stop_ids)} given, at most {MAX_STOP_IDS}",
            ),
        ]
        for wrong, message in problems:
            if wrong:
                raise ValueError(f"sampling.{message}")


class SamplingArrays(NamedTuple):
    """`SamplingParams` as device scalars."""

    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    top_p: Float[Array, ""]
    max_tokens: Int[Array, ""]
    stop_ids: Int[Array, " stops"]  # -1 where unused

    @classmethod
    def of(cls, params: SamplingParams) -> "SamplingArrays":
        stops = [*params.stop_ids, *[-1] * (MAX_STOP_IDS - len(params.stop_ids))]
        return cls(
            temperature=jnp.asarray(params.temperature, jnp.float32),
            top_k=jnp.asarray(params.top_k, jnp.int32),
            top_p=jnp.asarray(params.top_p, jnp.float32),
            max_tokens=jnp.asarray(params.max_tokens, jnp.int32),
            stop_ids=jnp.asarray(np.array(stops), jnp.int32),
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


def uniforms(keys_R: Array, positions_R: Int[Array, " R"]) -> Float[Array, " R"]:
    """One number in [0, 1) per row, keyed by the row's key and its place in the response."""
    return jax.vmap(lambda key, position: jax.random.uniform(jax.random.fold_in(key, position)))(
        keys_R, positions_R
    )


def sample(
    logits_RV: Float[Array, "R V"], uniform_R: Float[Array, " R"], sampling: SamplingArrays
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """(token, its log-prob under the distribution sampled from).

    Greedy is the limit of temperature to zero; its log-prob is reported at temperature 1.
    """
    greedy = sampling.temperature == 0
    logits = logits_RV / jnp.where(greedy, jnp.float32(1), sampling.temperature)
    filtering = (sampling.top_k > 0) | (sampling.top_p < 1)
    logits = jax.lax.cond(
        filtering & ~greedy, lambda x: filter_logits(x, sampling), lambda x: x, logits
    )
    token = jax.lax.cond(
        greedy,
        lambda: jnp.argmax(logits, axis=-1).astype(jnp.int32),
        lambda: draw(logits, uniform_R),
    )
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token, chosen - jax.nn.logsumexp(logits, axis=-1)


def filter_logits(logits_RV: Float[Array, "R V"], sampling: SamplingArrays) -> Float[Array, "R V"]:
    """Top-k, then top-p of what top-k left; what falls out becomes -inf. Ties at the edge stay."""
    vocabulary = logits_RV.shape[-1]
    k = jnp.where(sampling.top_k > 0, sampling.top_k, vocabulary).astype(jnp.float32)
    ones = jnp.ones_like(logits_RV)
    logits = _keep_above(logits_RV, ones, jnp.broadcast_to(k, logits_RV.shape[:1]))
    probabilities = jax.nn.softmax(logits, axis=-1)
    # A wanted mass of 2 is never reached: everything stays, the last rounding included.
    p = jnp.where(sampling.top_p < 1, sampling.top_p, jnp.float32(2))
    p = jnp.broadcast_to(p, logits_RV.shape[:1])
    return _keep_above(logits, probabilities, p)


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


def draw(logits_RV: Float[Array, "R V"], uniform_R: Float[Array, " R"]) -> Int[Array, " R"]:
    """Invert the cumulative distribution at `uniform`, in two levels: a block, then its token.

    One random number per row; the Gumbel trick needs one per row and token, which on a CPU costs
    more than the model.
    """
    rows, vocabulary = logits_RV.shape
    blocks = -(-vocabulary // _BLOCK)
    weights = jnp.exp(logits_RV - jnp.max(logits_RV, axis=-1, keepdims=True))
    weights = jnp.pad(weights, ((0, 0), (0, blocks * _BLOCK - vocabulary)))
    weights = weights.reshape(rows, blocks, _BLOCK)
    mass = jnp.sum(weights, axis=-1)  # [R, blocks]
    block, target = _invert(mass, uniform_R * jnp.sum(mass, axis=-1))
    inside = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]  # [R, _BLOCK]
    place, _ = _invert(inside, target)
    return block * _BLOCK + place


def _invert(
    mass_RN: Float[Array, "R N"], target_R: Float[Array, " R"]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """(first place whose running sum exceeds `target`, how far into that place the target lies).

    Only a place with mass is taken, the last of them if rounding leaves none: the sums of a
    parallel scan can rise or fall a little over places that add nothing.
    """
    running = jnp.cumsum(mass_RN, axis=-1)
    places = jnp.arange(mass_RN.shape[1])[None]
    possible = mass_RN > 0
    exceeds = possible & (running > target_R[:, None])
    first = jnp.min(jnp.where(exceeds, places, places.size), axis=-1)
    last = jnp.max(jnp.where(possible, places, 0), axis=-1)
    place = jnp.minimum(first, last)
    before = jnp.take_along_axis(running - mass_RN, place[:, None], axis=-1)[:, 0]
    return place, target_R - before
