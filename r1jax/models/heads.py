"""One number per token on top of a decoder: values, rewards, rewards of steps.

    module, params = heads.attach(module, params)            # or models.load of a reward model
    scores_BT = heads.scores(module, params, tokens, positions, segment_ids)

Everywhere it is a critic's value; at the last token of a sequence it is the reward of the sequence
(`sequence_scores`); at the ends of its steps, rewards of the steps (`step_scores`). The head is two
more leaves of the parameter tree, so it is split, saved and restored as any parameter.
"""

from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.models.transformer import Transformer, without_head
from r1jax.types import Params

SCORE, BIAS = "score", "score_bias"


def attach(
    module: Transformer, params: Params, *, seed: int | None = None, bias: bool = False
) -> tuple[Transformer, Params]:
    """(backbone without a vocabulary, its parameters and a head). No array is copied.

    The head starts at zero, as a critic wants it; with a seed it is normal with a standard
    deviation of 1/sqrt(width + 1), as reward models start (arXiv 2203.02155, in TRL too).
    """
    backbone, kept = without_head(module, params)
    width = module.config.width
    kernel = jnp.zeros(width, jnp.float32)
    if seed is not None:
        key = jax.random.key(seed, impl="threefry2x32")
        kernel = jax.random.normal(key, (width,), jnp.float32) * (width + 1) ** -0.5
    return backbone, {**kept, SCORE: kernel, **({BIAS: jnp.zeros(1)} if bias else {})}


def shapes(width: int, *, bias: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """The head's leaves, as `jax.eval_shape` has them."""
    sizes = {SCORE: (width,), **({BIAS: (1,)} if bias else {})}
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}


def scores(
    module: Transformer,
    params: Params,
    tokens_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"] | None = None,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    prefix_ids_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """The head's number at every token, in float32."""
    inputs = (tokens_BT, positions_BT, segment_ids_BT, prefix_ids_BT)
    hidden = cast(Array, module.apply({"params": params}, *inputs, method="hidden"))
    kernel = params[SCORE].astype(jnp.float32)
    found = jnp.einsum(
        "btd,d->bt", hidden.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST
    )
    return found + params[BIAS].astype(jnp.float32)[0] if BIAS in params else found


def last_tokens(segment_ids_BT: Int[Array, "B T"]) -> Bool[Array, "B T"]:
    """True at the last token of each sequence of packed rows."""
    after = jnp.pad(segment_ids_BT[:, 1:], ((0, 0), (0, 1)))
    return (segment_ids_BT > 0) & (after != segment_ids_BT)


def sequence_scores(
    scores_BT: Float[Array, "B T"], segment_ids_BT: Int[Array, "B T"], *, most: int
) -> Float[Array, "B S"]:
    """Each sequence's number, that at its last token; place s is segment s + 1, 0 if there is none.

    `most`: sequences that a row can hold.
    """
    ends = jnp.where(last_tokens(segment_ids_BT), scores_BT, 0)

    def one(row: Array, segments: Array) -> Array:
        return jax.ops.segment_sum(row, segments, num_segments=most + 1)[1:]

    return jax.vmap(one)(ends, segment_ids_BT)


def step_ends(
    tokens_BT: Int[Array, "B T"], mask_BT: Bool[Array, "B T"], ids: Sequence[int]
) -> Bool[Array, "B T"]:
    """True at tokens that end a step, among those of the mask."""
    return mask_BT & jnp.isin(tokens_BT, jnp.asarray(ids, jnp.int32))


def step_scores(
    scores_BT: Float[Array, "B T"], ends_BT: Bool[Array, "B T"], *, most: int
) -> tuple[Float[Array, "B S"], Int[Array, "B S"]]:
    """(rewards of the first `most` steps of each row, the places of their ends; -1 = no such step):
    what `advantages.process_sum` takes, where rows are completions."""

    def one(row: Array, ends: Array) -> tuple[Array, Array]:
        (places,) = jnp.nonzero(ends, size=most, fill_value=-1)
        return jnp.where(places >= 0, row[places], 0), places

    return jax.vmap(one)(scores_BT, ends_BT)
