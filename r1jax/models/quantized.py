"""Kernels of int8, for decoding: `prepare_decode_params(int8=True)` makes them, `Adaptable` finds
them, `linear` multiplies by them."""

from collections.abc import Mapping
from typing import Any

from r1jax.models.lora import TARGETS
from r1jax.ops.quant import SCALE, quantize
from r1jax.types import Params

# How many axes of a kernel are inputs. Not `kv_up`, which latent attention cuts in two; not those
# of experts: a ragged product would make floats of all of them first.
INPUTS: Mapping[str, int] = {name: axes for name, (axes, _) in TARGETS.items() if name != "kv_up"}


def quantize_kernels(layer: Params) -> dict[str, Any]:
    """A layer's parameters with its kernels in int8, their scales beside them."""
    made: dict[str, Any] = {}
    for name, value in layer.items():
        if isinstance(value, Mapping):
            made[name] = quantize_kernels(value)
        elif name in INPUTS:
            made[name], made[name + SCALE] = quantize(value, tuple(range(INPUTS[name])))
        else:
            made[name] = value
    return made
