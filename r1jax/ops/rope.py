"""Rotary position embedding, the half-split form of Llama and Qwen."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """Radians per position of each of the `head_dim / 2` planes, computed in float64."""
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def rotate(
    x: Float[Array, "B T heads H"],
    positions_BT: Int[Array, "B T"],
    inv_freq: np.ndarray,
) -> Float[Array, "B T heads H"]:
    """Turn plane i of each head by `position * inv_freq[i]`; angles and turning in float32."""
    angles = (
        positions_BT[:, :, None].astype(jnp.float32)
        * jnp.asarray(inv_freq, jnp.float32)[None, None]
    )
    sin, cos = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return turned.astype(x.dtype)
