"""The decoding cache: one `LayerCache` per layer, each array `[R, K, S, H]`, written in place.

A list of layers and this layout are what XLA updates without copying: scanning over a stacked
cache, or writing `[R, S, K, H]` with a slice, copies the whole cache every step.

XLA:CPU multiplies queries by keys of `[R, K, H, S]` two to three times as fast: `turned`.

A cache of int8 has a float32 scale for each token and head, `[R, K, S]`. Attention puts it on the
scores and the weights, so that no cache in floats is ever made.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1jax.ops.quant import quantize

ARRAYS = ("keys", "values", "key_scales", "value_scales")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    keys: Any  # [R, K, S, H]; [R, K, H, S] where `turned`
    values: Any  # [R, K, S, V], of size 0 where keys are all that is stored
    key_scales: Any = None  # float32 [R, K, S], where keys and values are int8
    value_scales: Any = None
    turned: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def rows(self) -> int:
        return self.keys.shape[0]

    @property
    def heads(self) -> int:
        return self.keys.shape[1]

    @property
    def places(self) -> int:
        return self.keys.shape[self.axis("keys")]

    def axis(self, name: str) -> int:
        """Of the places, in one of the arrays."""
        return 3 if self.turned and name == "keys" else 2

    def map(self, function: Callable[..., Array], *others: "LayerCache") -> "LayerCache":
        """function(axis of the places, array, that of the others), for each array there is."""
        found = {
            name: function(self.axis(name), *(getattr(cache, name) for cache in (self, *others)))
            for name in ARRAYS
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, **found)


Caches = list[LayerCache]


def make(k_RSKH: Float[Array, "R S K H"], v_RSKH: Float[Array, "R S K V"]) -> LayerCache:
    """Keys and values as they are computed."""
    return LayerCache(jnp.swapaxes(k_RSKH, 1, 2), jnp.swapaxes(v_RSKH, 1, 2))


def turned(cache: LayerCache) -> LayerCache:
    return dataclasses.replace(cache, keys=jnp.swapaxes(cache.keys, 2, 3), turned=True)


def quantized(cache: LayerCache) -> LayerCache:
    """The cache in int8, each token of each head with a scale of its own."""
    keys, key_scales = quantize(cache.keys, (3,))
    values, value_scales = quantize(cache.values, (3,))
    return LayerCache(keys, values, key_scales, value_scales)


def as_stored(like: LayerCache, cache: LayerCache) -> LayerCache:
    """A cache that was made, in the form of one that there is."""
    if like.turned:
        return turned(cache)
    return cache if like.key_scales is None else quantized(cache)


def write(
    cache: LayerCache,
    k_RCKH: Float[Array, "R C K H"],
    v_RCKH: Float[Array, "R C K V"],
    slots_R: Int[Array, " R"],
) -> LayerCache:
    """Put C tokens per row into the row's own slots, from `slots_R` on."""

    def write_all(axis: int, rows: Array, new: Array) -> Array:
        def put(row_KS: Array, new_KC: Array, slot: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(row_KS, new_KC, slot, axis - 1)

        return jax.vmap(put)(rows, new, slots_R)

    return cache.map(write_all, as_stored(cache, make(k_RCKH, v_RCKH)))


def put_rows(target: Caches, source: Caches, rows: Int[Array, " P"]) -> Caches:
    """The source's rows as these of the target, which has as many places or more; past the last row
    is nowhere."""

    def put(axis: int, all_: Array, new: Array) -> Array:
        places = (*[slice(None)] * (axis - 1), slice(new.shape[axis]))
        return all_.at[rows, *places].set(new, mode="drop")

    pairs = zip(target, source, strict=True)
    return [cache.map(put, as_stored(cache, new)) for cache, new in pairs]


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

    def pad(axis: int, leaf: Array) -> Array:
        more = [(0, 0)] * leaf.ndim
        more[axis] = (0, slots - leaf.shape[axis])
        return jnp.pad(leaf, more)

    return [cache.map(pad) for cache in caches]


def count_bytes(caches: Sequence[LayerCache]) -> int:
    """Of caches or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))
