"""Sums over the sequences and prompt groups of packed rows.

A row of a packed batch holds several sequences, told apart by `segment_ids` (0 = padding) that are
unique within their row only. Ids may be any integers, in any order. The functions take numpy or
JAX arrays and return the same kind, so that a host can compute whole-batch weights without
compiling anything.
"""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

HostOrDevice = Any  # a jax.Array or a numpy.ndarray
Real = float | int
Scalar = Real | Num[HostOrDevice, ""]


def namespace(array: HostOrDevice) -> Any:
    """`numpy` for a numpy array, `jax.numpy` for a JAX array."""
    return np if isinstance(array, np.ndarray) else jnp


def require_shape(shape: tuple[int, ...], **arrays: HostOrDevice | None) -> None:
    """Refuse what would be broadcast: it would be a loss, of something else."""
    for name, array in arrays.items():
        if array is not None and np.shape(array) != shape:
            raise ValueError(f"{name} has shape {np.shape(array)}, it must be {shape}")


def require_choice(name: str, value: str, choices: Any) -> None:
    """`choices`: a Literal."""
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r}: use one of {', '.join(get_args(choices))}")


def above_0(denominator: HostOrDevice) -> HostOrDevice:
    """1 where nothing counts, so that a loss of nothing is 0."""
    xp = namespace(denominator)
    return xp.where(denominator == 0, xp.ones_like(denominator), denominator)


def group_index(ids_BT: Int[HostOrDevice, "B T"]) -> Int[HostOrDevice, "B T"]:
    """Number the distinct ids of each row 0, 1, ...: equal ids get equal numbers."""
    xp = namespace(ids_BT)
    order_BT = xp.argsort(ids_BT, axis=-1)
    sorted_BT = xp.take_along_axis(ids_BT, order_BT, axis=-1)
    is_new_BT = (sorted_BT[:, 1:] != sorted_BT[:, :-1]).astype("int32")
    rank_BT = xp.pad(xp.cumsum(is_new_BT, axis=-1), ((0, 0), (1, 0)))
    return xp.take_along_axis(rank_BT, xp.argsort(order_BT, axis=-1), axis=-1)


def group_totals(
    values_BT: HostOrDevice, ids_BT: Int[HostOrDevice, "B T"]
) -> tuple[HostOrDevice, Int[HostOrDevice, "B T"]]:
    """Return totals and index: `totals[b, index[b, t]]` is the sum over the id that (b, t) has.

    A row of T tokens has at most T groups; the totals of the numbers that no group uses are 0.
    """
    index_BT = group_index(ids_BT)
    rows_B1 = np.arange(ids_BT.shape[0])[:, None]
    if isinstance(values_BT, np.ndarray):
        totals_BT = np.zeros_like(values_BT)
        np.add.at(totals_BT, (rows_B1, index_BT), values_BT)
        return totals_BT, index_BT
    return jnp.zeros_like(values_BT).at[rows_B1, index_BT].add(values_BT), index_BT


def sequence_sum(
    values_BT: HostOrDevice, segment_ids: Int[HostOrDevice, "B T"] | None
) -> HostOrDevice:
    """Give every token the sum of `values` over its sequence, as [B, T]."""
    xp = namespace(values_BT)
    if segment_ids is None:
        return xp.broadcast_to(values_BT.sum(axis=-1, keepdims=True), values_BT.shape)
    totals_BT, index_BT = group_totals(values_BT, segment_ids)
    return xp.take_along_axis(totals_BT, index_BT, axis=-1)


def sequence_max(
    values_BT: Shaped[jax.Array, "B T"], segment_ids: Int[jax.Array, "B T"] | None
) -> Shaped[jax.Array, "B T"]:
    """Give every token the maximum of `values` over its sequence, as [B, T]."""
    if segment_ids is None:
        return jnp.broadcast_to(values_BT.max(axis=-1, keepdims=True), values_BT.shape)
    index_BT = group_index(segment_ids)
    rows_B1 = np.arange(index_BT.shape[0])[:, None]
    lowest_BT = jnp.full_like(values_BT, values_BT.min())
    largest_BT = lowest_BT.at[rows_B1, index_BT].max(values_BT)
    return jnp.take_along_axis(largest_BT, index_BT, axis=-1)


def sequence_mean(
    values_BT: Float[jax.Array, "B T"],
    mask: Bool[jax.Array, "B T"],
    segment_ids: Int[jax.Array, "B T"] | None,
) -> Float[jax.Array, "B T"]:
    """Give every token the mean of `values` over the counted tokens of its sequence."""
    total_BT = sequence_sum(jnp.where(mask, values_BT, 0), segment_ids)
    length_BT = sequence_sum(mask.astype("int32"), segment_ids)
    return jnp.asarray(total_BT / jnp.maximum(length_BT, 1).astype(values_BT.dtype))


def sequence_count(
    mask: Bool[HostOrDevice, "B T"], segment_ids: Int[HostOrDevice, "B T"] | None
) -> HostOrDevice:
    """Number of sequences, counted tokens or not: the rows, or the segments other than 0."""
    xp = namespace(mask)
    if segment_ids is None:
        return xp.asarray(mask.shape[0])
    sorted_BT = xp.sort(segment_ids, axis=-1)
    is_last_BT = sorted_BT[:, 1:] != sorted_BT[:, :-1]
    is_last_BT = xp.concatenate([is_last_BT, xp.ones_like(mask[:, :1])], axis=-1)
    return xp.asarray((is_last_BT & (sorted_BT != 0)).sum())


def per_token(values: HostOrDevice, shape: tuple[int, ...]) -> HostOrDevice:
    """Spread one value per row, [B], over the tokens; what is [B, T] is returned as it is."""
    if values.ndim == 2:
        return values
    return namespace(values).broadcast_to(values[:, None], shape)


def masked_mean(
    values: Float[jax.Array, "*shape"],
    mask: Bool[jax.Array, "*shape"],
    denominator: Scalar | None = None,
) -> Float[jax.Array, ""]:
    """Sum of the values where the mask is True, over the denominator or else over their number."""
    total = jnp.where(mask, values, 0).sum()
    if denominator is None:
        denominator = jnp.maximum(mask.sum(), 1)
    return total / above_0(jnp.asarray(denominator)).astype(values.dtype)
