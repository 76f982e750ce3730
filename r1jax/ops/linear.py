"""Products with a kernel of any number of axes."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r1jax.mesh import is_split
from r1jax.ops.quant import Quantized

Kernel = Array | Quantized

# Up to so many rows, and from so many entries of a matrix on, a CPU gains by these (docs/LOG.md).
ALONE_ROWS, ALONE_ENTRIES = 4, 1 << 16
TURNED_ROWS, TURNED_ENTRIES = 64, 1 << 17


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
    """rows @ matrix. On a CPU, where XLA leaves it to YNNPACK, that is slow for the few rows of a
    decoding step: it reads a large matrix at a fifth of the speed of memory, and cuts the product
    up for cores that have other work. XLA compiles the product of one row itself, and leaves rows
    that lie turned to oneDNN: half and two thirds of the time."""
    plain = functools.partial(jnp.matmul, precision=precision)
    rows, entries = len(rows_RI), matrix_IO.size
    # Rows that lie on several devices are fewer there, and to cut them would move them.
    if is_split():
        return plain(rows_RI, matrix_IO)
    if 1 < rows <= ALONE_ROWS and entries >= ALONE_ENTRIES:
        on_cpu = functools.partial(_multiply_alone, precision=precision)
    elif ALONE_ROWS < rows <= TURNED_ROWS and entries >= TURNED_ENTRIES:
        on_cpu = functools.partial(_multiply_turned, precision=precision)
    else:
        return plain(rows_RI, matrix_IO)
    return jax.lax.platform_dependent(rows_RI, matrix_IO, cpu=on_cpu, default=plain)


def as_rows(x: Float[Array, "*rows D"]) -> Float[Array, "... D"]:
    """x as a matrix, where it lies on one device. XLA:CPU takes several times as long for sums over
    products whose first axis is a single row."""
    return x if is_split() else x.reshape(-1, x.shape[-1])


def _multiply_alone(rows_RI: Array, matrix_IO: Array, precision) -> Array:
    rows = jnp.split(rows_RI, len(rows_RI))
    return jnp.concatenate([jnp.matmul(row, matrix_IO, precision=precision) for row in rows])


def _multiply_turned(rows_RI: Array, matrix_IO: Array, precision) -> Array:
    # The barrier keeps XLA from turning them back.
    rows_IR = jax.lax.optimization_barrier(rows_RI.T)
    first_axes = (((0,), (0,)), ((), ()))
    return jax.lax.dot_general(rows_IR, matrix_IO, first_axes, precision=precision)


def sum_of_products(
    left_RI: Float[Array, "R I"],
    right_RO: Float[Array, "R O"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "I O"]:
    """left.T @ right, where right is the wide one: the gradient of a head. As they lie XLA:CPU
    leaves that to Eigen, which copies all of the right side; not where the left one is turned."""

    def plain(left_RI: Array, right_RO: Array) -> Array:
        return jnp.matmul(left_RI.T, right_RO, precision=precision)

    def turned(left_RI: Array, right_RO: Array) -> Array:
        # The barrier keeps XLA from turning it back.
        left_IR = jax.lax.optimization_barrier(left_RI.T)
        return jnp.matmul(left_IR, right_RO, precision=precision)

    if is_split():
        return plain(left_RI, right_RO)
    return jax.lax.platform_dependent(left_RI, right_RO, cpu=turned, default=plain)
