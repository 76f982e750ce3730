"""Products with a kernel of any number of axes."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r1jax.ops.quant import Quantized

Kernel = Array | Quantized

FEW_ROWS = 64
LARGE = 1 << 17  # entries of a matrix, more than a core's own cache holds


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
    product = multiply(x.reshape(math.prod(leading), math.prod(inputs)), matrix)
    return product.reshape(*leading, *outputs)


def multiply(
    rows_RI: Float[Array, "R I"],
    matrix_IO: Float[Array, "I O"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "R O"]:
    """rows @ matrix. A CPU multiplies few rows, those of a decoding step, by a large matrix in two
    thirds of the time if they lie turned: XLA leaves that to oneDNN, all else to YNNPACK, which
    then reads the matrix slowly and cuts the product up for cores that have other work."""
    plain = functools.partial(jnp.matmul, precision=precision)
    if not 1 < len(rows_RI) <= FEW_ROWS or matrix_IO.size < LARGE:
        return plain(rows_RI, matrix_IO)
    turned = functools.partial(_multiply_turned, precision=precision)
    return jax.lax.platform_dependent(rows_RI, matrix_IO, cpu=turned, default=plain)


def _multiply_turned(rows_RI: Array, matrix_IO: Array, precision) -> Array:
    # The barrier keeps XLA from turning them back.
    rows_IR = jax.lax.optimization_barrier(rows_RI.T)
    first_axes = (((0,), (0,)), ((), ()))
    return jax.lax.dot_general(rows_IR, matrix_IO, first_axes, precision=precision)
