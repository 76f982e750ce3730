"""Products with a kernel of any number of axes."""

import math

from jaxtyping import Array


def linear(x: Array, kernel: Array, axes: int = 1) -> Array:
    """x [..., *in] times kernel [*in, *out], `axes` of them `in`, in x's dtype.

    One product of two matrices: what XLA makes of the gradient of one with more axes copies
    activations into another layout first, and takes twice as long on a CPU.
    """
    inputs, outputs = kernel.shape[:axes], kernel.shape[axes:]
    leading = x.shape[: x.ndim - axes]
    matrix = kernel.astype(x.dtype).reshape(math.prod(inputs), math.prod(outputs))
    product = x.reshape(math.prod(leading), math.prod(inputs)) @ matrix
    return product.reshape(*leading, *outputs)
