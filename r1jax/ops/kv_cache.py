"""The decoding cache: one `LayerCache` per layer, each array `[R, K, S, H]`, written in place.

A list of layers and this layout are what XLA updates without copying: scanning over a stacked
cache, or writing `[R, S, K, H]` with a slice, copies the whole cache every step.

A cache of int8 has a float32 scale for each token and head, `[R, K, S]`. Attention puts it on the
scores and the weights, so that no cache in floats is ever made.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from r1jax.ops.quant import quantize


class LayerCache(NamedTuple):
    keys: Real[Array, "R K S H"]
    values: Real[Array, "R K S V"]  # of size 0 where keys are all that is stored
    key_scales: Float[Array, "R K S"] | None = None  # where keys and values are int8
    value_scales: Float[Array, "R K S"] | None = None


Caches = list[LayerCache]


def write(
    cache: LayerCache,
    k_RCKH: Float[Array, "R C K H"],
    v_RCKH: Float[Array, "R C K V"],
    slots_R: Int[Array, " R"],
) -> LayerCache:
    """Put C tokens per row into the row's own slots, from `slots_R` on."""

    new = LayerCache(jnp.swapaxes(k_RCKH, 1, 2), jnp.swapaxes(v_RCKH, 1, 2))
    if cache.key_scales is not None:
        new = quantized(new)

    def put(row_KS: Array, new_KC: Array, slot: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(row_KS, new_KC, slot, axis=1)

    return jax.tree.map(lambda all_, more: jax.vmap(put)(all_, more, slots_R), cache, new)


def quantized(cache: LayerCache) -> LayerCache:
    """The cache in int8, each token of each head with a scale of its own."""
    keys, key_scales = quantize(cache.keys, (3,))
    values, value_scales = quantize(cache.values, (3,))
    return LayerCache(keys, values, key_scales, value_scales)


def copy_row(target: Caches, source: Caches, to: Array, of: Array) -> Caches:
    """Row `of` of the source into row `to` of the target, which has as many slots or more."""

    def copy(target_RKS: Array, source_RKS: Array) -> Array:
        row = jax.lax.dynamic_slice_in_dim(source_RKS, of, 1, axis=0)
        others = [jnp.zeros((), to.dtype)] * (row.ndim - 1)
        return jax.lax.dynamic_update_slice(target_RKS, row, (to, *others))

    return jax.tree.map(copy, target, source)


def take_rows(caches: Caches, rows: Int[Array, " B"]) -> Caches:
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), caches)


def grow(caches: Caches, slots: int) -> Caches:
    """The same caches with room for `slots` tokens a row."""

    def pad(leaf: Array) -> Array:
        more = [(0, 0)] * leaf.ndim
        more[2] = (0, slots - leaf.shape[2])
        return jnp.pad(leaf, more)

    return jax.tree.map(pad, caches)


def count_bytes(caches: Sequence[LayerCache]) -> int:
    """Of caches or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))
