"""Lanes of an update: shares of its micro-batches, worked on at the same time.

On a CPU a micro-batch's small operations leave cores idle; another's products fill them.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from r1jax.aside import Aside
from r1jax.config import BatchConfig
from r1jax.types import PackedBatch

T = TypeVar("T")


def choose_lanes(config: BatchConfig, mesh: jax.sharding.Mesh) -> int:
    """Two on one CPU device; devices of other kinds run one program at a time."""
    is_one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return config.lanes or (2 if is_one_cpu else 1)


def by_lane(
    lanes: int, batch: PackedBatch, used: ArrayLike, work: Callable[[np.int32, np.int32], T]
) -> tuple[T, ...]:
    """`work(first, end)` of every lane's share of the batch's `used` micro-batches, all under way.

    Shares do not depend on how fast a lane is. The first is dispatched from here, so that what
    there is to compile is compiled once.
    """
    lanes = min(lanes, len(batch.mask))
    ends = [np.int32(int(np.asarray(used)) * lane // lanes) for lane in range(lanes + 1)]
    first, *others = itertools.pairwise(ends)
    asides = [Aside() for _ in others]  # all at once: the thread of one that is gone is used again
    found = (call(work, *share) for call, share in zip(asides, others, strict=True))
    return (work(*first), *found)


@jax.jit
def add_shares(found: Sequence[T]) -> T:
    """What lanes made, each of its own micro-batches with zeros in the others, as one."""
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), found)
