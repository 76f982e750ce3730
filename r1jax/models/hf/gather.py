"""Parameters that several processes hold, tensor by tensor to the one that writes them down."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.errors import UserError

# (parameter, place in its stack) -> that tensor, whole, on the host
Take = Callable[[jax.Array, tuple[int, ...]], np.ndarray]
Order = Sequence[tuple[jax.Array, tuple[int, ...]]]


def take_here(leaf: jax.Array, place: tuple[int, ...]) -> np.ndarray:
    return np.asarray(jax.device_get(leaf[place]))


def write_together(order: Order, write: Callable[[Take], None]) -> None:
    """Run `write(take)` in the first process, with the help of all others.

    A tensor is gathered by all processes at once, in the order in which `write` asks for them. So
    when it fails, nobody is left waiting: the rest is gathered for nothing, and all stop.
    """
    if jax.process_count() == 1:
        write(take_here)
        return
    done = 0

    def take(leaf: jax.Array, place: tuple[int, ...]) -> np.ndarray:
        nonlocal done
        done += 1
        return _take_together(leaf, place)

    failure = None
    if jax.process_index() == 0:
        try:
            write(take)
        except Exception as error:  # noqa: BLE001 - raised below, once the others are told
            failure = error
    while done < len(order):
        take(*order[done])
    failed = bool(multihost_utils.broadcast_one_to_all(np.int32(failure is not None)))
    if failure is not None:
        raise failure
    if failed:
        raise UserError("process 0 could not write what all hold; its own message says why")


def _take_together(leaf: jax.Array, place: tuple[int, ...]) -> np.ndarray:
    indices = tuple(jnp.int32(index) for index in place)
    return np.asarray(_gather(leaf.sharding)(leaf, indices).addressable_data(0))


@functools.cache
def _gather(sharding: Any) -> Callable[..., jax.Array]:
    """One place of a stack, copied to every device."""
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.jit(lambda leaf, indices: leaf[indices], out_shardings=whole)
