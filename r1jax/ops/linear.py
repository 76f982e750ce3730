"""Products with a kernel of any number of axes."""

import math

import jax.numpy as jnp
from jaxtyping import Array

from r1jax.ops.quant import Quantized

Kernel = Array | Quantized


def linear(x: Array, kernel: Kernel, axes: int = 1) -> Array:
    """x [..., *in] times kernel [*in, *out], `axes` of them `in`, in x's dtype.

    One product of two matrices: what XLA makes of the gradient of one with more axes copies
    activations into another layout first, and takes twice as long on a CPU.
    """
    if isinstance(kernel, Quantized):
        # Scales behind the product: nothing as large as the kernel is made of it.
        product = linear(x, kernel.values, axes).astype(jnp.float32)
        scales = jnp.expand_dims(kernel.scales, tuple(range(x.ndim - axes)))
        return (product * scales).astype(x.dtype)
    inputs, outputs = kernel.shape[:axes], kernel.shape[axes:]
    leading = x.shape[: x.ndim - axes]
    matrix = kernel.astype(x.dtype).reshape(math.prod(inputs), math.prod(outputs))
    product = x.reshape(math.prod(leading), math.prod(inputs)) @ matrix
    return product.reshape(*leading, *outputs)
