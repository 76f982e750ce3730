"""The update of adapters: the same as any other, with the base beside the state."""

from typing import Any

import optax
from jaxtyping import Array

from r1jax.models import lora
from r1jax.training.step import LossFn, Told, UpdateFn, WeighFn, Weights, make_update
from r1jax.types import PackedBatch, Params


def adapter_loss(loss_fn: LossFn, scale: float) -> LossFn:
    """`loss_fn` of a base with adapters, as one of the adapters: gradients and moments are of them
    alone. It is told of the base, which is frozen."""

    def joined(
        adapters: Params, micro: PackedBatch, weights: Weights, base: Any
    ) -> tuple[Array, Told]:
        return loss_fn(lora.join(base, adapters, scale), micro, weights)

    return joined


def make_adapter_update(
    loss_fn: LossFn,
    weigh: WeighFn,
    optimizer: optax.GradientTransformation,
    base_params: Params,
    scale: float,
    *,
    lanes: int = 1,
) -> UpdateFn:
    """`step.make_update` for adapters."""
    loss_fn = adapter_loss(loss_fn, scale)
    return make_update(loss_fn, weigh, optimizer, lanes=lanes, frozen=(base_params,))
