"""PPO's second model: values of the policy's tokens, its advantages, and the critic's own updates.

    before a step's updates:  values of all minibatches ──▶ GAE ──▶ advantages and returns
    with each of them:        policy update, critic update

(PPO 1707.06347, GAE 1506.02438; critic first, decoupled lambdas: VC-PPO 2503.01491 and VAPO
2504.05118.) A value is of the place that predicts a token, before the token is known.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from r1jax.config import Config, CriticConfig
from r1jax.models import Transformer, heads, init_params
from r1jax.models.axes import logical_axes
from r1jax.models.transformer import without_head
from r1jax.objectives import advantages as advantages_lib
from r1jax.objectives import kl as kl_lib
from r1jax.objectives.value import clipped_value_loss
from r1jax.training.lanes import add_shares, by_lane
from r1jax.training.optimizer import make_optimizer
from r1jax.training.setup import Setup, with_shardings
from r1jax.training.step import (
    LossFn,
    Told,
    UpdateFn,
    Weights,
    init_state,
    make_update,
    supervised_weights,
)
from r1jax.types import PackedBatch, Params, Stats, TrainState


class Appraisal(NamedTuple):
    """What a critic makes of a minibatch, [M, B, T] each; 0 where a token does not count."""

    values: Array
    advantages: Array
    returns: Array


class Critic:
    """A run's critic: its state, and the compiled programs that read and change it."""

    def __init__(self, setup: Setup, state: TrainState) -> None:
        config = setup.config
        self.state = state
        self._module, _ = without_head(setup.module, {})
        self._optimizer = make_critic_optimizer(config)
        self._options = config.critic
        self._lanes = setup.lanes
        self.predict = jax.jit(functools.partial(predict, self._module))
        self._appraise = jax.jit(functools.partial(appraise, config.critic, reward_kl(config)))
        self._settle = jax.jit(functools.partial(settle, whiten=config.critic.whiten))
        self.update_at = functools.cache(self._make_update)

    def advise(
        self, batches: Sequence[PackedBatch], used: Sequence[int]
    ) -> tuple[list[PackedBatch], Stats]:
        """A step's minibatches with advantages of their tokens, where they came with the outcome of
        their responses; and numbers of the step. All before the first of its updates."""
        if not batches:
            return [], {}
        found = [
            self._appraise(batch, self._values(batch, count))
            for batch, count in zip(batches, used, strict=True)
        ]
        found, stats = self._settle(found, [batch.mask for batch in batches])
        advised = [
            dataclasses.replace(batch, **each._asdict())
            for batch, each in zip(batches, found, strict=True)
        ]
        return advised, stats

    def learn(self, step: int, batch: PackedBatch, used: int) -> Stats:
        """One update, of a minibatch that `advise` has seen."""
        clip = None if step < self._options.pretrain_steps else self._options.clip
        self.state, stats = self.update_at(clip)(self.state, batch, np.int32(used))
        return {
            "value/loss": stats["loss"],
            "value/clip_fraction": stats["vf_clipfrac"],
            "value/grad_norm": stats["grad_norm"],
        }

    def _values(self, batch: PackedBatch, used: int) -> Array:
        work = functools.partial(self.predict, self.state.params, batch)
        return add_shares(by_lane(self._lanes, batch, used, work))

    def _make_update(self, clip: float | None) -> UpdateFn:
        loss = make_value_loss(self._module, clip)
        return make_update(loss, supervised_weights, self._optimizer, lanes=self._lanes)


def reward_kl(config: Config) -> float:
    """What a nat of KL to the reference costs in reward."""
    coefficient = config.objective.kl_coef
    assert isinstance(coefficient, int | float)  # of a config, never traced
    return float(coefficient) if config.objective.kl_in_reward else 0.0


def predict_values(module: Transformer, params: Params, micro: PackedBatch) -> Float[Array, "B T"]:
    inputs = (micro.tokens, micro.positions, micro.segment_ids, micro.prefix_ids)
    by_place = heads.scores(module, params, *inputs)
    return jnp.take_along_axis(by_place, micro.sources, axis=1)


def predict(
    module: Transformer, params: Params, batch: PackedBatch, first: ArrayLike, end: ArrayLike
) -> Float[Array, "M B T"]:
    """Values of micro-batches `first` to `end`, zeros in the others."""

    def one(index: Array, found: Array) -> Array:
        micro = jax.tree.map(lambda leaf: leaf[index], batch)
        return found.at[index].set(predict_values(module, params, micro))

    zeros = jnp.zeros(batch.mask.shape, jnp.float32)
    return jax.lax.fori_loop(first, end, one, zeros)


def appraise(
    options: CriticConfig, kl_coef: float, batch: PackedBatch, values: Float[Array, "M B T"]
) -> Appraisal:
    """Values, advantages and returns of an [M, B, T] batch, in whose `advantages` every token has
    its response's outcome."""
    return jax.vmap(functools.partial(estimate, options, kl_coef))(batch, values)


def estimate(
    options: CriticConfig, kl_coef: float, micro: PackedBatch, values_BT: Float[Array, "B T"]
) -> Appraisal:
    """The outcome at a response's last token, less the KL at every one; and GAE of these rewards.

    The policy's lambda and the critic's may differ: 1 for the critic makes its targets unbiased.
    """
    mask, segment_ids = micro.mask, micro.sequence_ids
    old = micro.logp_behavior if micro.logp_old is None else micro.logp_old
    kl = kl_lib.k1(*map(kl_lib.bound_logp, (old, micro.logp_ref)))
    rewards_BT = advantages_lib.token_rewards(
        micro.advantages,
        mask,
        segment_ids=segment_ids,
        kl=kl if kl_coef else None,
        kl_coef=kl_coef,
    )
    gae = functools.partial(
        advantages_lib.gae,
        rewards_BT,
        values_BT,
        mask,
        gamma=options.gamma,
        segment_ids=segment_ids,
    )
    lam = options.lam
    if options.length_alpha:
        lam = advantages_lib.length_adaptive_lambda(
            mask, alpha=options.length_alpha, segment_ids=segment_ids
        )
    advantages_BT, _ = gae(lam=lam)
    _, returns_BT = gae(lam=options.return_lam)
    return Appraisal(jnp.where(mask, values_BT, 0), advantages_BT, returns_BT)


def settle(
    found: Sequence[Appraisal], masks: Sequence[Array], *, whiten: bool
) -> tuple[list[Appraisal], Stats]:
    """What needs all of the step's tokens: whitened advantages, and how good the critic is.

    explained variance: 1 - Var(return - value) / Var(return); NaN where all returns are equal.
    """
    mask = jnp.stack(masks)
    values, advantages, returns = (jnp.stack(each) for each in zip(*found, strict=True))
    stats = {
        "value/mean": _mean(values, mask),
        "value/returns": _mean(returns, mask),
        "value/explained_variance": 1
        - _variance(returns - values, mask) / _variance(returns, mask),
    }
    if whiten:
        advantages = advantages_lib.whiten(advantages, mask)
    settled = [each._replace(advantages=advantages[i]) for i, each in enumerate(found)]
    return settled, stats


def _mean(values: Array, mask: Array) -> Array:
    count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0)) / count


def _variance(values: Array, mask: Array) -> Array:
    return _mean(jnp.square(values - _mean(values, mask)), mask)


def make_value_loss(module: Transformer, clip: float | None) -> LossFn:
    """Squared error to the returns, the mean over the batch's counted tokens."""

    def loss_fn(params: Params, micro: PackedBatch, weights: Weights) -> tuple[Array, Told]:
        loss, stats = clipped_value_loss(
            predict_values(module, params, micro),
            micro.returns,
            micro.mask,
            values_old=micro.values,
            clip=clip,
            weights=weights.tokens,
        )
        return loss, jax.lax.stop_gradient(Told(stats, {}))

    return loss_fn


def make_critic_optimizer(config: Config) -> optax.GradientTransformation:
    return make_optimizer(config.critic.optim, config.rl.steps * config.rl.updates)


def abstract_critic(setup: Setup) -> TrainState:
    """Shapes, dtypes and shardings of a critic's state: nothing is computed."""
    optimizer = make_critic_optimizer(setup.config)
    shapes = jax.eval_shape(
        lambda: init_scored(setup.module, optimizer, init_params(setup.module, 0))
    )
    return with_shardings(setup, shapes, optimizer, logical_axes(shapes.params))


def fresh_critic(setup: Setup, base_params: Params) -> TrainState:
    """A copy of the policy's base with a head of zeros in place of the vocabulary's."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_critic(setup))
    make = functools.partial(init_scored, setup.module, make_critic_optimizer(setup.config))
    return jax.jit(make, out_shardings=shardings)(base_params)


def init_scored(
    module: Transformer, optimizer: optax.GradientTransformation, base_params: Params
) -> TrainState:
    """Step 0 of a model that gives numbers in place of tokens, from a base that stays as it is."""
    _, params = heads.attach(module, base_params)
    # A copy: updates write over what they are given, and the base is the policy's.
    return init_state(jax.tree.map(jnp.copy, params), optimizer)
