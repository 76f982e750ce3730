"""The update of adapters: the same as any other, with the base beside the state."""

import functools
from typing import Any

import jax
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from r1jax.models import lora
from r1jax.training.step import LossFn, Told, UpdateFn, WeighFn, Weights, update_step
from r1jax.types import PackedBatch, Params, Stats, TrainState


def adapter_step(
    state: TrainState,
    base: Any,
    batch: PackedBatch,
    used: ArrayLike,
    *,
    scale: float,
    loss_fn: LossFn,
    weigh: WeighFn,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Stats]:
    """`step.update_step` of a state of adapters: gradients and moments are of them alone."""

    def joined(adapters: Params, micro: PackedBatch, weights: Weights) -> tuple[Array, Told]:
        return loss_fn(lora.join(base, adapters, scale), micro, weights)

    return update_step(state, batch, used, loss_fn=joined, weigh=weigh, optimizer=optimizer)


def make_adapter_update(
    loss_fn: LossFn,
    weigh: WeighFn,
    optimizer: optax.GradientTransformation,
    base_params: Params,
    scale: float,
) -> UpdateFn:
    """`step.make_update` for adapters. The base is an argument of the program, not a constant."""
    step = functools.partial(
        adapter_step, scale=scale, loss_fn=loss_fn, weigh=weigh, optimizer=optimizer
    )
    compiled = jax.jit(step, donate_argnums=0)
    return lambda state, batch, used: compiled(state, base_params, batch, used)
