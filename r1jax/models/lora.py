"""LoRA: a small tree of adapters beside frozen parameters. W + (alpha / rank) A B, 2106.09685.

    adapters = init(...)                        # what is trained, saved and given to the optimizer
    params = join(base, adapters, scale)        # a tree that any model function takes
    merge(params)                               # plain parameters: to decode, to export

A joined tree holds the base's own arrays: nothing is copied. Where a module asks for a kernel that
has an adapter, it gets the sum, one layer at a time inside the scan over layers; with `remat` it is
made again in the backward pass. Decoding merges once per policy version, as it casts. So sampler,
trainer and export compute with the same weights.

Targets are kernels by name: A has the kernel's input axes and then the rank, B the rank and then
the output axes.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from r1jax.errors import UserError
from r1jax.ops import quant
from r1jax.types import Params

# Projections that can have an adapter: how many axes of a kernel are inputs, and how many there are
# outside a stack of layers. The last four are of latent attention; experts have none.
TARGETS: Mapping[str, tuple[int, int]] = {
    "query": (1, 3),
    "key": (1, 3),
    "value": (1, 3),
    "out": (2, 3),
    "gate": (1, 2),
    "up": (1, 2),
    "down": (1, 2),
    "query_down": (1, 2),
    "query_up": (1, 3),
    "kv_down": (1, 2),
    "kv_up": (1, 3),
}
A, B = "_lora_a", "_lora_b"


class Adaptable(nn.Module):
    """A module whose kernels come with their adapters added, or their scales, where the parameters
    hold any."""

    @nn.nowrap
    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        kernel = super().param(name, *args, **kwargs)
        if self.has_variable("params", name + quant.SCALE):
            return quant.Quantized(kernel, self.get_variable("params", name + quant.SCALE))
        if name not in TARGETS or not self.has_variable("params", name + A):
            return kernel
        return _add(kernel, *(self.get_variable("params", name + end) for end in (A, B)))


def _product(a: Array, b: Array) -> Array:
    """A B, with a batch axis of one: `remat="dots"` saves products that have none for the backward
    pass, and saving this one is a copy of the model."""
    dimensions = (((a.ndim,), (1,)), ((0,), (0,)))
    return jax.lax.dot_general(a[None], b[None], dimensions)[0]


def _add(kernel: Array, a: Array, b: Array) -> Array:
    return kernel.astype(jnp.float32) + _product(a, b)


def init(shapes: Params, *, rank: int, targets: Sequence[str], seed: int | Array) -> Params:
    """Adapters for every kernel of these names: A uniform as in peft, B zero, both float32.

    They change nothing yet. `shapes` is a parameter tree or what `jax.eval_shape` makes of one.
    """
    key = jax.random.key(seed, impl="threefry2x32")

    def make(path: str, name: str, leaf: Any) -> dict[str, Array]:
        stacked, inputs, outputs = _axes(name, leaf.shape)
        bound = 1 / np.sqrt(np.prod(inputs))
        # Keyed by its path: another set of targets leaves an adapter as it was.
        own = jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))
        a = jax.random.uniform(own, (*stacked, *inputs, rank), jnp.float32, -bound, bound)
        return {name + A: a, name + B: jnp.zeros((*stacked, rank, *outputs), jnp.float32)}

    adapters = _for_targets(shapes, targets, make)
    if not adapters:
        raise UserError(f"lora.targets={tuple(targets)}: this model has none of these")
    return adapters


def logical_axes(adapters: Params, param_axes: Mapping[str, tuple[str | None, ...]]) -> Params:
    """Axes of adapters lie as those of their kernels; the rank is whole."""

    def axes(path: tuple[Any, ...], leaf: Any) -> tuple[str | None, ...]:
        name, end = split(path[-1].key)
        kernel = param_axes[name]
        inputs = TARGETS[name][0]
        own = (*kernel[:inputs], None) if end == A else (None, *kernel[inputs:])
        return ("layers",) * (leaf.ndim - len(own)) + own

    return jax.tree_util.tree_map_with_path(axes, adapters)


def join(base: Params, adapters: Params, scale: float) -> Params:
    """Base and adapters in one tree, the scale in B."""
    joined = dict(base)
    for name, value in adapters.items():
        if isinstance(value, Mapping):
            joined[name] = join(base[name], value, scale)
        else:
            joined[name] = value * scale if name.endswith(B) else value
    return joined


def is_joined(params: Params) -> bool:
    return any(
        is_joined(value) if isinstance(value, Mapping) else bool(split(name)[1])
        for name, value in params.items()
    )


def merge(params: Params) -> Params:
    """Plain parameters of a joined tree; what has no adapter stays as it is. Run it under jit."""
    merged: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            merged[name] = merge(value)
        elif split(name)[1]:
            continue
        elif name + A in params:
            add = jax.vmap(_add) if _axes(name, value.shape)[0] else _add
            merged[name] = add(value, params[name + A], params[name + B])
        else:
            merged[name] = value
    return merged


def split(name: str) -> tuple[str, str]:
    """("query", A) of an adapter's name; (name, "") of any other."""
    for end in (A, B):
        if name.endswith(end):
            return name.removesuffix(end), end
    return name, ""


def _axes(name: str, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """(stacked, inputs, outputs) sizes of a kernel."""
    inputs, axes = TARGETS[name]
    first = len(shape) - axes
    end = first + inputs
    return tuple(shape[:first]), tuple(shape[first:end]), tuple(shape[end:])


def _for_targets(
    tree: Params, targets: Sequence[str], make: Callable[[str, str, Any], Params], path: str = ""
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            inner = _for_targets(value, targets, make, f"{path}{name}/")
            made |= {name: inner} if inner else {}
        elif name in targets:
            made |= make(f"{path}{name}", name, value)
    return made
