"""Exact attention in blocks of queries and keys, visiting only pairs of blocks that see each other.

No array of T x T scores is made, forward or backward, and a row packed with many short segments
costs what its segments cost. One loop runs over the list of pairs; how long that list is depends
on the batch and never recompiles. Sums are float32 (float64 where the inputs are).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from r1jax.mesh import is_split
from r1jax.ops.linear import as_rows

# Finite, so that a row with nothing to attend to (padding) stays free of NaN.
MASKED = -1e30
# What a rematerialised layer may keep, so that it does not attend twice.
ATTENDED = "attended"


class Places(NamedTuple):
    """What decides which place sees which; see `sees`."""

    index: Int[Array, " T"]
    segment_ids: Int[Array, "B T"]
    prefix_ids: Int[Array, "B T"]
    positions: Int[Array, "B T"]

    def block(self, number: Array, size: int) -> "Places":
        return Places(*(_take(field, number, size, field.ndim - 1) for field in self))


class Pairs(NamedTuple):
    """Pairs (query block, key block) to visit; only the first `count` are real."""

    queries: Int[Array, " pairs"]
    keys: Int[Array, " pairs"]
    count: Int[Array, ""]


def sees(query: Places, key: Places, window: Any = None) -> Bool[Array, "B q k"]:
    """True where a query may look at a key: one at its own or an earlier place of the row, in its
    own segment or its prefix's, fewer than `window` positions away."""
    same = query.segment_ids[:, :, None] == key.segment_ids[:, None]
    visible = same | (query.prefix_ids[:, :, None] == key.segment_ids[:, None])
    visible &= (query.index[:, None] >= key.index[None])[None]
    if window is not None:
        visible &= query.positions[:, :, None] - key.positions[:, None] < window
    return visible


def find_pairs(places: Places, block: int) -> Pairs:
    """Every pair of blocks that has a visible pair of places in any row, and at most a few more:
    a block counts as holding every id between its least and its largest. A block of padding sees
    itself, so that every query sees something."""
    rows, length = places.segment_ids.shape
    blocks = length // block

    def bounds(ids_BT: Array) -> tuple[Array, Array]:
        ids = ids_BT.reshape(rows, blocks, block)
        # Padding, 0, widens no range; that of nothing else goes from the largest id down to 0.
        low = jnp.where(ids == 0, np.int32(2**31 - 1), ids).min(-1)
        return low[:, :, None], ids.max(-1)[:, :, None]

    own, prefix = bounds(places.segment_ids), bounds(places.prefix_ids)
    key_low, key_high = (jnp.swapaxes(x, 1, 2) for x in own)
    meets = [(low <= key_high) & (high >= key_low) for low, high in (own, prefix)]
    seen = jnp.any(meets[0] | meets[1], axis=0)
    needed = (seen & jnp.tri(blocks, dtype=bool)) | jnp.eye(blocks, dtype=bool)
    queries, keys = jnp.nonzero(needed, size=blocks * (blocks + 1) // 2)
    return Pairs(queries, keys, jnp.sum(needed))


def attend_blocks(
    q: Float[Array, "B K G T H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T U"],
    places: Places,
    *,
    window: Any = None,
    block: int,
) -> Float[Array, "B K G T U"]:
    """softmax(q k) v over what each place sees. Queries come scaled; `block` divides T."""
    return _attend(block, q, k, v, places, window, find_pairs(places, block))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(block, q, k, v, places, window, pairs):
    return _forward(block, q, k, v, places, window, pairs)[0]


def _attend_saving(block, q, k, v, places, window, pairs):
    saved = _forward(block, q, k, v, places, window, pairs)
    out, log_sum = (checkpoint_name(x, ATTENDED) for x in saved)
    return out, (q, k, v, places, window, pairs, out, log_sum)


def _forward(block, q, k, v, places, window, pairs):
    """(output, log of each query's sum of exponentials), by a running softmax."""
    dtype = _wide(q)

    def visit(number, carry):
        i, j = pairs.queries[number], pairs.keys[number]
        out, top, total = (_take(x, i, block, 3) for x in carry)
        scores = _scores(block, q, k, places, window, i, j)
        new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
        weights = jnp.exp(scores - new_top[..., None])
        faded = jnp.exp(top - new_top)
        added = _product("bkqs,bksh->bkqh", _fold(weights.astype(v.dtype)), _take(v, j, block))
        new = (
            out * faded[..., None] + added.reshape(out.shape),
            new_top,
            total * faded + jnp.sum(weights, axis=-1),
        )
        return tuple(_put(x, y, i, block, 3) for x, y in zip(carry, new, strict=True))

    zeros = jnp.zeros((*q.shape[:-1], v.shape[-1]), dtype)
    start = (zeros, jnp.full(q.shape[:-1], MASKED, dtype), jnp.zeros(q.shape[:-1], dtype))
    out, top, total = jax.lax.fori_loop(0, pairs.count, visit, start)
    return (out / total[..., None]).astype(v.dtype), top + jnp.log(total)


def _backward(block, saved, d_out):
    """Scores are computed again, so that none were kept; every product is a plain one."""
    q, k, v, places, window, pairs, out, log_sum = saved
    dtype = _wide(q)
    # What softmax takes off every weight's gradient: sum of weight * gradient.
    mean = jnp.sum(as_rows(d_out.astype(dtype)) * as_rows(out.astype(dtype)), axis=-1)
    mean = mean.reshape(out.shape[:-1])

    def visit(number, grads):
        i, j = pairs.queries[number], pairs.keys[number]
        scores = _scores(block, q, k, places, window, i, j)
        weights = jnp.exp(scores - _take(log_sum, i, block, 3)[..., None])
        q_i, d_i = (_fold(_take(x, i, block)) for x in (q, d_out))
        k_j, v_j = (_take(x, j, block) for x in (k, v))
        d_weights = _product("bkqh,bksh->bkqs", d_i, v_j).reshape(scores.shape)
        d_scores = weights * (d_weights - _take(mean, i, block, 3)[..., None])
        d_scores, weights = (_fold(x.astype(q.dtype)) for x in (d_scores, weights))
        # Small operands are transposed, not the scores: a CPU is three times as fast so.
        d_q = _product("bkqs,bksh->bkqh", d_scores, k_j)
        d_k = _product("bkhq,bkqs->bkhs", jnp.swapaxes(q_i, 2, 3), d_scores)
        d_v = _product("bkhq,bkqs->bkhs", jnp.swapaxes(d_i, 2, 3), weights)
        shape = (*q.shape[:3], block, q.shape[-1])
        new = d_q.reshape(shape), jnp.swapaxes(d_k, 2, 3), jnp.swapaxes(d_v, 2, 3)
        return tuple(
            _put(grad, _take(grad, at, block) + x, at, block)
            for grad, x, at in zip(grads, new, (i, j, j), strict=True)
        )

    start = tuple(jnp.zeros(x.shape, dtype) for x in (q, k, v))
    grads = jax.lax.fori_loop(0, pairs.count, visit, start)
    return *(g.astype(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)), None, None, None


_attend.defvjp(_attend_saving, _backward)


def _scores(block, q, k, places, window, i, j) -> Array:
    """[B, K, G, block, block] masked scores of query block i against key block j."""
    scores = _product("bkqh,bksh->bkqs", _fold(_take(q, i, block)), _take(k, j, block))
    scores = scores.reshape(*q.shape[:3], block, block)
    visible = sees(places.block(i, block), places.block(j, block), window)
    return jnp.where(visible[:, None, None], scores, jnp.asarray(MASKED, scores.dtype))


def _wide(x: Array) -> jnp.dtype:
    return jnp.dtype("float64" if x.dtype == jnp.float64 else "float32")


def _product(equation: str, left: Array, right: Array) -> Array:
    """Of arrays [B, K, ...]. On one device B and K are one axis: the products that make gradients
    of keys and values are a third as fast on a CPU where several rows stand before the heads."""
    rows = left.shape[:2]
    if not is_split():
        left, right = (x.reshape(1, -1, *x.shape[2:]) for x in (left, right))
    product = jnp.einsum(equation, left, right, preferred_element_type=_wide(left))
    return product.reshape(*rows, *product.shape[2:])


def _fold(x: Float[Array, "B K G q H"]) -> Float[Array, "B K Gq H"]:
    """Heads that share keys, and queries, as one axis: plain batched matrix products."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _take(x: Array, number: Array, block: int, axis: int = -2) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, number * block, block, axis)


def _put(x: Array, new: Array, number: Array, block: int, axis: int = -2) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x, new, number * block, axis)
