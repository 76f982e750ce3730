"""The update: pure functions from (state, packed micro-batches) to (state, statistics)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from r1jax.config import AuxiliaryConfig
from r1jax.mesh import constrain
from r1jax.models import Transformer, moe
from r1jax.models.moe import Routing
from r1jax.models.transformer import head_kernel
from r1jax.objectives.kl import bound_logp
from r1jax.objectives.policy import (
    PolicyObjective,
    add_stats,
    mean_stats,
    policy_loss,
    token_weights,
)
from r1jax.ops.logprobs import scored_logprobs, token_logprobs
from r1jax.training.auxiliary import Shares, auxiliary_loss, batch_shares
from r1jax.training.lanes import by_lane
from r1jax.types import PackedBatch, Params, Stats, TrainState

_NO_AUXILIARY = AuxiliaryConfig()


class Told(NamedTuple):
    """What a loss says of its micro-batch besides."""

    stats: Stats
    routing: dict[str, Routing]  # by stack; none without experts


class Weights(NamedTuple):
    """What makes the sum over micro-batches the loss of the batch. With a leading axis of M."""

    tokens: Array  # [B, T], each token's weight in the step's loss
    shares: Shares


# (params, one micro-batch, its weights; what is frozen, if anything) -> (its share of the step's
# loss, what else there is)
LossFn = Callable[..., tuple[Array, Told]]
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
    *frozen: Any,
    loss_fn: LossFn,
    weigh: WeighFn,
    optimizer: optax.GradientTransformation,
    rebalance: float = 0.0,
) -> tuple[TrainState, Stats]:
    """One optimizer step over the first `used` of the [M, B, T] micro-batches.

    `rebalance`: how far the selection bias of each expert then moves against its load.
    """
    found = gradients(state.params, batch, 0, used, *frozen, loss_fn=loss_fn, weigh=weigh)
    return apply_gradients(state, found, optimizer=optimizer, rebalance=rebalance)


Gradients = tuple[Params, Told]  # of the step's loss, as far as some micro-batches make it


def gradients(
    params: Params,
    batch: PackedBatch,
    first: ArrayLike,
    end: ArrayLike,
    *frozen: Any,
    loss_fn: LossFn,
    weigh: WeighFn,
) -> Gradients:
    """Summed over micro-batches `first` to `end`, in float32.

    Weights are computed over the whole batch first, so the sum of the micro-batches' losses is the
    loss of the batch however it was cut. `frozen`: what else `loss_fn` is told.
    """
    weights = Weights(weigh(batch), batch_shares(batch))

    def one(index: Array) -> Gradients:
        micro, micro_weights = jax.tree.map(lambda leaf: leaf[index], (batch, weights))
        (loss, told), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, micro, micro_weights, *frozen
        )
        return grads, told._replace(stats={**told.stats, "loss": loss})

    # Zeros, not the first micro-batch: the loss is then compiled once. Statistics that end in
    # `max` are of values from 0 up.
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, jnp.int32(0))
    )
    return jax.lax.fori_loop(first, end, lambda at, total: add_gradients(total, one(at)), zeros)


def add_gradients(total: Gradients, more: Gradients) -> Gradients:
    (sums, so_far), (grads, told) = total, more
    routing = jax.tree.map(jnp.add, so_far.routing, told.routing)
    return jax.tree.map(jnp.add, sums, grads), Told(add_stats(so_far.stats, told.stats), routing)


def apply_gradients(
    state: TrainState,
    found: Gradients,
    *,
    optimizer: optax.GradientTransformation,
    rebalance: float,
) -> tuple[TrainState, Stats]:
    grads, (stats, routing) = found
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    stats = {**mean_stats(stats), "grad_norm": optax.tree.norm(grads)}
    if routing:
        stats["expert_load_max"] = moe.max_load(routing)
    if rebalance:
        params = moe.rebalance(params, routing, speed=rebalance)
    return TrainState(params=params, opt_state=opt_state, step=state.step + 1), stats


def make_update(
    loss_fn: LossFn,
    weigh: WeighFn,
    optimizer: optax.GradientTransformation,
    *,
    rebalance: float = 0.0,
    lanes: int = 1,
    frozen: tuple[Any, ...] = (),
) -> UpdateFn:
    """`update_step` compiled, the old state's memory given to the new one.

    With several `lanes` the gradients are a program of their own, which each lane runs on its share
    of the micro-batches; the second's are added to the first's in place. `frozen` are arguments of
    the program, not constants in it.
    """
    of_loss = {"loss_fn": loss_fn, "weigh": weigh}
    of_step = {"optimizer": optimizer, "rebalance": rebalance}
    if lanes == 1:
        whole = jax.jit(functools.partial(update_step, **of_loss, **of_step), donate_argnums=0)
        return (lambda *given: whole(*given, *frozen)) if frozen else whole
    share = jax.jit(functools.partial(gradients, **of_loss))
    add = jax.jit(add_gradients, donate_argnums=0)
    finish = jax.jit(functools.partial(apply_gradients, **of_step), donate_argnums=0)

    def update(state: TrainState, batch: PackedBatch, used: ArrayLike) -> tuple[TrainState, Stats]:
        def work(first: np.int32, end: np.int32) -> Gradients:
            return share(state.params, batch, first, end, *frozen)

        return finish(state, functools.reduce(add, by_lane(lanes, batch, used, work)))

    return update


class Forward(NamedTuple):
    logp: Array  # of every target that counts
    entropy: Array


def forward(module: Transformer, params: Params, micro: PackedBatch, temperature: float) -> Forward:
    """What the model makes of a packed micro-batch."""
    hidden, _ = hidden_and_routing(module, params, micro)
    head = whole_head(module, params)
    return Forward(
        *token_logprobs(hidden, head, micro.targets, **_head_options(micro, temperature))
    )


def hidden_and_routing(
    module: Transformer, params: Params, micro: PackedBatch
) -> tuple[Array, dict[str, Routing]]:
    inputs = (micro.tokens, micro.positions, micro.segment_ids, micro.prefix_ids)
    found = module.apply({"params": params}, *inputs, method="hidden_and_routing")
    return cast(tuple[Array, dict[str, Routing]], found)


def whole_head(module: Transformer, params: Params) -> Array:
    """Collected over `fsdp` once, not at every chunk."""
    return constrain(head_kernel(module.config, params), None, "vocab")


def _head_options(micro: PackedBatch, temperature: float) -> dict[str, Any]:
    return {
        "temperature": temperature,
        "mask_BC": micro.mask,
        "sources_BC": micro.sources,
        "kept_BCM": micro.kept,
    }


def make_policy_loss(
    module: Transformer,
    objective: PolicyObjective,
    *,
    temperature: float,
    on_policy: bool,
    positive_nll: float = 0.0,
    auxiliary: AuxiliaryConfig = _NO_AUXILIARY,
) -> LossFn:
    """The policy objective. The old policy's log-probs are the batch's, or where it has none what
    the sampler recorded.

    `on_policy`: this update is the only one of its rollout, so the ratio is 1 by definition.
    `positive_nll`: coefficient of the likelihood loss of right answers (VAPO 2504.05118).
    """

    def score(logp: Array, entropy: Array, seen: Predicted) -> tuple[Array, Stats]:
        of, weights = seen
        old = of.logp_behavior if of.logp_old is None else of.logp_old
        loss, stats = policy_loss(
            objective,
            logp=logp,
            logp_old=None if on_policy else old,
            advantages=of.advantages,
            mask=of.mask,
            segment_ids=of.sequence_ids,
            logp_ref=of.logp_ref if objective.needs_reference else None,
            logp_behavior=of.logp_behavior,
            entropy=entropy,
            weights=weights,
        )
        if positive_nll:
            counts = of.positive > 0
            nll = -jnp.sum(jnp.where(counts, of.positive * bound_logp(logp), 0))
            loss, stats = loss + positive_nll * nll, {**stats, "positive_nll": nll}
        gap = jnp.where(of.mask, jnp.abs(logp - of.logp_behavior), 0)
        return loss, {**stats, "logp_gap_sum": jnp.sum(gap), "logp_gap_max": jnp.max(gap)}

    by_token = objective.is_by_token
    return _make_loss(module, score, temperature, auxiliary, by_token=by_token, teaches_model=False)


# What `score` is told of predictions, [B, C] arrays: fields of the batch, the others None, and
# each one's weight in the loss.
Predicted = tuple[PackedBatch, Array]


def _by_prediction(micro: PackedBatch, weights: Array) -> Predicted:
    of_places = {"tokens", "positions", "segment_ids", "prefix_ids"}
    of_head = {"sources", "targets", "kept"}
    return dataclasses.replace(micro, **dict.fromkeys(of_places | of_head)), weights


def _make_loss(
    module: Transformer,
    score: Callable[[Array, Array, Predicted], tuple[Array, Stats]],
    temperature: float,
    auxiliary: AuxiliaryConfig,
    *,
    by_token: bool,
    teaches_model: bool,
) -> LossFn:
    """The loss that `score` finds in what the model makes of a micro-batch, and `auxiliary`'s.

    `by_token`: it is a sum over tokens, each of which needs to know of itself only.
    """

    def loss_fn(params: Params, micro: PackedBatch, weights: Weights) -> tuple[Array, Told]:
        hidden, routing = hidden_and_routing(module, params, micro)
        inputs = hidden, whole_head(module, params), micro.targets
        data, options = _by_prediction(micro, weights.tokens), _head_options(micro, temperature)
        if by_token:
            loss, stats = scored_logprobs(
                *inputs,
                score,
                data,
                merge=add_stats,
                turned=module.config.tied_head,
                **options,
            )
        else:
            loss, stats = score(*token_logprobs(*inputs, **options), data)
        more_loss, more_stats, routing = auxiliary_loss(
            auxiliary,
            module,
            params,
            micro,
            weights.shares,
            hidden=hidden,
            routing=routing,
            teaches_model=teaches_model,
        )
        told = Told({**stats, **more_stats}, routing)
        return loss + more_loss, jax.lax.stop_gradient(told)

    return loss_fn


def make_policy_weights(objective: PolicyObjective) -> WeighFn:
    def weigh(batch: PackedBatch) -> Array:
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
        weights = token_weights(
            objective, flat.mask, segment_ids=flat.sequence_ids, prompt_ids=flat.prompt_ids
        )
        return weights.reshape(batch.mask.shape)

    return weigh


def make_supervised_loss(module: Transformer, auxiliary: AuxiliaryConfig = _NO_AUXILIARY) -> LossFn:
    """Negative log-likelihood, the mean over the batch's counted tokens."""

    def score(logp: Array, entropy: Array, seen: Predicted) -> tuple[Array, Stats]:
        of, weights = seen
        stats = {
            "entropy_sum": jnp.sum(jnp.where(of.mask, entropy, 0)),
            "tokens": jnp.sum(of.mask).astype(jnp.float32),
        }
        return -jnp.sum(jnp.where(of.mask, logp * weights, 0)), stats

    return _make_loss(module, score, 1.0, auxiliary, by_token=True, teaches_model=True)


def supervised_weights(batch: PackedBatch) -> Array:
    """Every counted token weighs the same; together they weigh 1."""
    mask = batch.mask.astype(jnp.float32)
    return mask / jnp.maximum(jnp.sum(mask), 1)
