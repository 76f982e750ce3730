"""Eight-bit integers with a float32 scale: weights by output channel, caches by token and head."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

SCALE = "_scale"  # a quantised kernel's scales stand beside it, under its name and this


class Quantized(NamedTuple):
    """A kernel [*in, *out] whose every output channel has a scale: values * scales."""

    values: Int8[Array, "..."]
    scales: Float[Array, "..."]


def quantize(x: Array, axes: tuple[int, ...]) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """(values, scales): the largest of what shares a scale, along `axes`, becomes 127."""
    x = x.astype(jnp.float32)
    highest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0)
    scales = highest / 127
    values = jnp.round(x / jnp.where(scales > 0, scales, 1)).astype(jnp.int8)
    return values, jnp.squeeze(scales, axes)
