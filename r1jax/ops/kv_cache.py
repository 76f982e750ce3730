"""The decoding cache: one `LayerCache` per layer, each array `[R, K, S, H]`, written in place.

A list of layers and this layout are what XLA updates without copying: scanning over a stacked
cache, or writing `[R, S, K, H]` with a slice, copies the whole cache every step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class LayerCache(NamedTuple):
    keys: Float[Array, "R K S H"]
    values: Float[Array, "R K S V"]  # of size 0 where keys are all that is stored


Caches = list[LayerCache]


def write(
    cache: LayerCache,
    k_RCKH: Float[Array, "R C K H"],
    v_RCKH: Float[Array, "R C K V"],
    slots_R: Int[Array, " R"],
) -> LayerCache:
    """Put C tokens per row into the row's own slots, from `slots_R` on."""

    def put(row_KSH: Array, new_CKH: Array, slot: Array) -> Array:
        new_KCH = jnp.swapaxes(new_CKH, 0, 1)
        return jax.lax.dynamic_update_slice_in_dim(row_KSH, new_KCH, slot, axis=1)

    return LayerCache(
        jax.vmap(put)(cache.keys, k_RCKH, slots_R), jax.vmap(put)(cache.values, v_RCKH, slots_R)
    )


def copy_row(target: Caches, source: Caches, to: Array, of: Array) -> Caches:
    """Row `of` of the source into row `to` of the target, which has as many slots or more."""

    def copy(target_RKSH: Array, source_RKSH: Array) -> Array:
        row = jax.lax.dynamic_slice_in_dim(source_RKSH, of, 1, axis=0)
        zero = jnp.zeros((), to.dtype)
        return jax.lax.dynamic_update_slice(target_RKSH, row, (to, zero, zero, zero))

    return jax.tree.map(copy, target, source)


def take_rows(caches: Caches, rows: Int[Array, " B"]) -> Caches:
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), caches)


def grow(caches: Caches, slots: int) -> Caches:
    """The same caches with room for `slots` tokens a row."""

    def pad(leaf: Array) -> Array:
        return jnp.pad(leaf, ((0, 0), (0, 0), (0, slots - leaf.shape[2]), (0, 0)))

    return jax.tree.map(pad, caches)


def count_bytes(caches: Sequence[LayerCache]) -> int:
    """Of caches or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))
