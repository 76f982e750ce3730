"""The update: pure functions from (state, packed micro-batches) to (state, statistics)."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from r1jax.mesh import constrain
from r1jax.models import Transformer
from r1jax.models.transformer import head_kernel
from r1jax.objectives.policy import (
    PolicyObjective,
    add_stats,
    mean_stats,
    policy_loss,
    token_weights,
)
from r1jax.ops.logprobs import token_logprobs
from r1jax.types import PackedBatch, Params, Stats, TrainState

# (params, one micro-batch, its tokens' weights) -> (its share of the step's loss, statistics)
LossFn = Callable[[Params, PackedBatch, Array], tuple[Array, Stats]]
# whole batch -> each token's weight in the step's loss
WeighFn = Callable[[PackedBatch], Array]
UpdateFn = Callable[[TrainState, PackedBatch, ArrayLike], tuple[TrainState, Stats]]


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(
        params=params, opt_state=optimizer.init(params), step=jnp.zeros((), jnp.int32)
    )


def update_step(
    state: TrainState,
    batch: PackedBatch,
    used: ArrayLike,
    *,
    loss_fn: LossFn,
    weigh: WeighFn,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Stats]:
    """One optimizer step over the first `used` of the [M, B, T] micro-batches.

    Weights are computed over the whole batch first, so the sum of the micro-batches' losses is the
    loss of the batch however it was cut. Gradients are summed in float32.
    """
    weights = weigh(batch)

    def one(index: Array) -> tuple[Params, Stats]:
        micro, micro_weights = jax.tree.map(lambda leaf: leaf[index], (batch, weights))
        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, micro, micro_weights
        )
        return grads, {**stats, "loss": loss}

    def accumulate(index: Array, total: tuple[Params, Stats]) -> tuple[Params, Stats]:
        grads, stats = one(index)
        return jax.tree.map(jnp.add, total[0], grads), add_stats(total[1], stats)

    # Zeros, not the first micro-batch: the loss is then compiled once. Statistics that end in
    # `max` are of values from 0 up.
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, jnp.int32(0))
    )
    grads, stats = jax.lax.fori_loop(0, used, accumulate, zeros)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    stats = {**mean_stats(stats), "grad_norm": optax.tree.norm(grads)}
    new_state = TrainState(
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        step=state.step + 1,
    )
    return new_state, stats


def make_update(
    loss_fn: LossFn, weigh: WeighFn, optimizer: optax.GradientTransformation
) -> UpdateFn:
    """`update_step` compiled, the old state's memory given to the new one."""

    def update(state: TrainState, batch: PackedBatch, used: ArrayLike) -> tuple[TrainState, Stats]:
        return update_step(state, batch, used, loss_fn=loss_fn, weigh=weigh, optimizer=optimizer)

    return jax.jit(update, donate_argnums=0)


def forward_logprobs(
    module: Transformer, params: Params, micro: PackedBatch, temperature: float
) -> tuple[Array, Array]:
    """(log-prob of every target that counts, entropy) of a packed micro-batch."""
    inputs = (micro.tokens, micro.positions, micro.segment_ids, micro.prefix_ids)
    hidden = cast(Array, module.apply({"params": params}, *inputs, method="hidden"))
    # Collected over `fsdp` once, not at every chunk.
    head = constrain(head_kernel(module.config, params), None, "vocab")
    return token_logprobs(
        hidden,
        head,
        micro.targets,
        temperature=temperature,
        mask_BC=micro.mask,
        sources_BC=micro.sources,
    )


def make_policy_loss(
    module: Transformer, objective: PolicyObjective, *, temperature: float, on_policy: bool
) -> LossFn:
    """The policy objective. What the sampler recorded stands for the old policy's log-probs.

    `on_policy`: this update is the only one of its rollout, so the ratio is 1 by definition.
    """

    def loss_fn(params: Params, micro: PackedBatch, weights: Array) -> tuple[Array, Stats]:
        logp, entropy = forward_logprobs(module, params, micro, temperature)
        loss, stats = policy_loss(
            objective,
            logp=logp,
            logp_old=None if on_policy else micro.logp_behavior,
            advantages=micro.advantages,
            mask=micro.mask,
            segment_ids=micro.sequence_ids,
            logp_ref=micro.logp_ref if objective.needs_reference else None,
            logp_behavior=micro.logp_behavior,
            entropy=entropy,
            weights=weights,
        )
        gap = jnp.where(micro.mask, jnp.abs(logp - micro.logp_behavior), 0)
        stats = {**stats, "logp_gap_sum": jnp.sum(gap), "logp_gap_max": jnp.max(gap)}
        return loss, jax.lax.stop_gradient(stats)

    return loss_fn


def make_policy_weights(objective: PolicyObjective) -> WeighFn:
    def weigh(batch: PackedBatch) -> Array:
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), batch)
        weights = token_weights(
            objective, flat.mask, segment_ids=flat.sequence_ids, prompt_ids=flat.prompt_ids
        )
        return weights.reshape(batch.mask.shape)

    return weigh


def make_supervised_loss(module: Transformer) -> LossFn:
    """Negative log-likelihood, the mean over the batch's counted tokens."""

    def loss_fn(params: Params, micro: PackedBatch, weights: Array) -> tuple[Array, Stats]:
        logp, entropy = forward_logprobs(module, params, micro, 1.0)
        entropy = jnp.where(micro.mask, entropy, 0)
        stats = {
            "entropy_sum": jnp.sum(entropy),
            "tokens": jnp.sum(micro.mask).astype(jnp.float32),
        }
        return -jnp.sum(jnp.where(micro.mask, logp * weights, 0)), jax.lax.stop_gradient(stats)

    return loss_fn


def supervised_weights(batch: PackedBatch) -> Array:
    """Every counted token weighs the same; together they weigh 1."""
    mask = batch.mask.astype(jnp.float32)
    return mask / jnp.maximum(jnp.sum(mask), 1)
