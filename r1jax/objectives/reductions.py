"""Sums over the sequences and prompt groups of packed rows.

A row of a packed batch holds several sequences, told apart by `segment_ids` (0 = padding) that
are unique within their row only. Ids may be any integers, in any order. The functions take
numpy or JAX arrays and return the same kind, so that a host can compute whole-batch weights
without compiling anything.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jax.Array | np.ndarray


def namespace(array: Array):
    """`numpy` for a numpy array, `jax.numpy` for anything else."""
    return np if isinstance(array, np.ndarray) else jnp


def group_index(ids_BT: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Number the distinct ids of each row 0, 1, ...: equal ids get equal numbers."""
    xp = namespace(ids_BT)
    order_BT = xp.argsort(ids_BT, axis=-1)
    sorted_BT = xp.take_along_axis(ids_BT, order_BT, axis=-1)
    is_new_BT = (sorted_BT[:, 1:] != sorted_BT[:, :-1]).astype("int32")
    rank_BT = xp.pad(xp.cumsum(is_new_BT, axis=-1), ((0, 0), (1, 0)))
    return xp.take_along_axis(rank_BT, xp.argsort(order_BT, axis=-1), axis=-1)


def group_totals(values_BT: Array, ids_BT: Int[Array, "B T"]) -> tuple[Array, Int[Array, "B T"]]:
    """Return totals and index: `totals[b, index[b, t]]` is the sum over the id that (b, t) has.

    A row of T tokens has at most T groups; the totals of the numbers that no group uses are 0.
    """
    index_BT = group_index(ids_BT)
    rows_B1 = np.arange(ids_BT.shape[0])[:, None]
    if isinstance(values_BT, np.ndarray):
        totals_BT = np.zeros_like(values_BT)
        np.add.at(totals_BT, (rows_B1, index_BT), values_BT)
    else:
        totals_BT = jnp.zeros_like(values_BT).at[rows_B1, index_BT].add(values_BT)
    return totals_BT, index_BT


def sequence_sum(values_BT: Array, segment_ids: Int[Array, "B T"] | None) -> Array:
    """Give every token the sum of `values` over its sequence, as [B, T]."""
    xp = namespace(values_BT)
    if segment_ids is None:
        return xp.broadcast_to(values_BT.sum(axis=-1, keepdims=True), values_BT.shape)
    totals_BT, index_BT = group_totals(values_BT, segment_ids)
    return xp.take_along_axis(totals_BT, index_BT, axis=-1)


def sequence_count(mask: Bool[Array, "B T"], segment_ids: Int[Array, "B T"] | None) -> Array:
    """Number of sequences, counted tokens or not: the rows, or the segments other than 0."""
    xp = namespace(mask)
    if segment_ids is None:
        return xp.asarray(mask.shape[0])
    sorted_BT = xp.sort(segment_ids, axis=-1)
    is_last_BT = sorted_BT[:, 1:] != sorted_BT[:, :-1]
    is_last_BT = xp.concatenate([is_last_BT, xp.ones_like(mask[:, :1])], axis=-1)
    return xp.asarray((is_last_BT & (sorted_BT != 0)).sum())


def prompt_ids_of_tokens(prompt_ids: Array, shape: tuple[int, ...]) -> Int[Array, "B T"]:
    """Spread prompt ids [B] over the tokens; ids [B, T] are returned as they are."""
    if prompt_ids.ndim == 2:
        return prompt_ids
    return namespace(prompt_ids).broadcast_to(prompt_ids[:, None], shape)


def masked_mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Array:
    """Mean of the values where the mask is True; 0 where it is True nowhere."""
    xp = namespace(values)
    return xp.where(mask, values, 0).sum() / xp.maximum(mask.sum(), 1).astype(values.dtype)
