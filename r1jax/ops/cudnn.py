"""NVIDIA's fused attention (cuDNN, through `jax.nn.dot_product_attention`) over packed rows.

It takes any mask, as an array of T x T numbers per row, which all heads share: segments, shared
prompts and windows of any kind are honoured, and no scores are kept. Rows of 8,192 places cost
0.13 GB each for it; longer ones are better cut. The packed layouts of cuDNN itself, which need no
mask, are not in JAX's public interface.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

HOPPER = (9, 0)
MULTIPLE = 8  # of places: the mask's rows are read so many numbers at a time


def missing(device: Any) -> str | None:
    """What the device lacks for it, in words; None where it lacks nothing."""
    capability = str(getattr(device, "compute_capability", ""))
    if device.platform != "gpu" or not capability.replace(".", "").isdigit():
        return f"needs an NVIDIA GPU, not {device.device_kind!r}"
    if tuple(map(int, capability.split("."))) < HOPPER:
        return f"needs a Hopper GPU or newer, not compute capability {capability}"
    return None


def refusal(q: Array, v: Array) -> str | None:
    """Why it cannot take these arrays, in words; None where it can."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"{q.dtype}: set model.dtype to 'bfloat16'"
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        return f"heads of {q.shape[-1]}: up to 256, in steps of 8"
    if q.shape[-1] != v.shape[-1]:
        return f"values of {v.shape[-1]} beside keys of {q.shape[-1]}"
    return None


def attend_cudnn(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    visible: Bool[Array, "B T T"],
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B T N H"]:
    """Queries come scaled; what a place sees is never behind it. "xla" is the same sum, for tests.

    That nothing behind a query is seen is said twice, in the mask and as `is_causal`: by the second
    whole blocks are left out.
    """
    length = q.shape[1]
    extra = -length % MULTIPLE
    q, k, v = (jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) for x in (q, k, v))
    visible = jnp.pad(visible, ((0, 0), (0, extra), (0, extra)))
    # Padding sees itself: a row of a softmax needs something.
    visible |= jnp.eye(length + extra, dtype=bool)[None]
    mask, options = visible[:, None], {"scale": 1.0, "is_causal": True}
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation, **options)
    return out[:, :length]
