"""The device mesh and where every array lies on it.

One mesh, `data x fsdp x expert x tensor`, also on one device. Modules name the *logical* axes of
what they hold (`vocab`, `embed`, `heads`, ...); `RULES` says which mesh axis each is split over.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from r1jax.errors import UserError
from r1jax.types import TrainState

AXES = ("data", "fsdp", "expert", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")

# Logical axis -> mesh axis. `fsdp` splits one axis of every parameter; `tensor` splits heads, the
# feed-forward and the vocabulary. `expert` splits experts and, everywhere else, the batch: `tokens`
# is the batch where the devices of that axis have gathered theirs, each to feed its own experts.
RULES: Mapping[str, Any] = {
    "batch": BATCH_AXES,
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "experts": "expert",
    "tokens": ("data", "fsdp"),
    "layers": None,
    "head_dim": None,
}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, expert: int = 1) -> jax.sharding.Mesh:
    """A mesh of the first so many devices; `data=-1` takes all that the other axes leave."""
    devices = jax.devices()
    if data == -1:
        data = max(1, len(devices) // (fsdp * expert * tensor))
    shape = (data, fsdp, expert, tensor)
    needed = math.prod(shape)
    if needed > len(devices):
        raise UserError(
            f"mesh: {' x '.join(AXES)} = {' x '.join(map(str, shape))} needs {needed} devices, "
            f"{len(devices)} found: lower one of them"
        )
    if needed < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"mesh: {' x '.join(AXES)} = {' x '.join(map(str, shape))} takes {needed} of "
            f"{len(devices)} devices, and some of the {jax.process_count()} processes would have "
            "none: use data=-1, all that are left"
        )
    return jax.make_mesh(
        shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed]
    )


@contextlib.contextmanager
def use(mesh: jax.sharding.Mesh) -> Iterator[jax.sharding.Mesh]:
    with jax.set_mesh(mesh):
        yield mesh


def is_split() -> bool:
    """Whether arrays may lie on several devices here."""
    return jax.sharding.get_abstract_mesh().size > 1


def spec(*logical: str | None) -> PartitionSpec:
    return PartitionSpec(*[None if name is None else RULES[name] for name in logical])


def fitting_spec(
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    shape: tuple[int, ...],
    logical: tuple[str | None, ...],
) -> PartitionSpec:
    """`spec`, but an axis that its mesh axes do not divide stays whole.

    A vocabulary of 151,936 is not divisible by 256, and a tiny model's heads not by 8.
    """
    entries = []
    for size, entry in zip(shape, spec(*logical), strict=True):
        axes = (entry,) if isinstance(entry, str) else (entry or ())
        split = math.prod(mesh.shape[axis] for axis in axes)
        entries.append(entry if size % split == 0 else None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pin an activation's layout inside jit; nothing where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, fitting_spec(mesh, x.shape, logical))


def param_shardings(mesh: jax.sharding.Mesh, shapes: Any, logical_axes: Any) -> Any:
    """Shardings of a parameter tree from the tree of its logical axes."""
    return jax.tree.map(
        lambda leaf, logical: NamedSharding(mesh, fitting_spec(mesh, leaf.shape, logical)),
        shapes,
        logical_axes,
    )


def state_shardings(
    mesh: jax.sharding.Mesh,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    param_sharding: Any,
) -> TrainState:
    """Shardings of a whole (abstract) state: moments lie where their parameters lie."""
    whole = NamedSharding(mesh, PartitionSpec())
    opt_sharding = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        param_sharding,
        transform_non_params=lambda _: whole,
    )
    return TrainState(params=param_sharding, opt_state=opt_sharding, step=whole)


def batch_sharding(mesh: jax.sharding.Mesh, *leading: None) -> NamedSharding:
    """Rows over the axes of the batch; `leading` axes (micro-batches) stay whole."""
    return NamedSharding(mesh, PartitionSpec(*leading, BATCH_AXES))
