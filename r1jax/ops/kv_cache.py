"""The decoding cache: one `LayerCache` per layer, each array `[R, K, S, H]`, written in place.

A list of layers and this layout are what XLA updates without copying: scanning over a stacked
cache, or writing `[R, S, K, H]` with a slice, copies the whole cache every step.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int


class LayerCache(NamedTuple):
    keys: Float[Array, "R K S H"]
    values: Float[Array, "R K S V"]  # of size 0 where keys are all that is stored


def write(
    cache: LayerCache,
    k_RKH: Float[Array, "R K H"],
    v_RKH: Float[Array, "R K V"],
    slots_R: Int[Array, " R"],
) -> LayerCache:
    """Put one token per row into that row's own slot."""

    def put(row_KSH: Array, new_KH: Array, slot: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(row_KSH, new_KH[:, None], slot, axis=1)

    return LayerCache(
        jax.vmap(put)(cache.keys, k_RKH, slots_R), jax.vmap(put)(cache.values, v_RKH, slots_R)
    )
