"""RMSNorm, which every module of a decoder uses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r1jax.ops.linear import as_rows


def rms_norm(
    x: Float[Array, "*rows D"], scale_D: Float[Array, " D"], eps: float
) -> Float[Array, "*rows D"]:
    """x / rms(x) * scale, in float32."""
    wide = as_rows(x.astype(jnp.float32))
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    # Not as an einsum: for that one's gradient XLA:CPU copies arrays with their axes turned.
    normed = wide * jnp.broadcast_to(scale_D.astype(jnp.float32), wide.shape)
    return normed.reshape(x.shape).astype(x.dtype)
