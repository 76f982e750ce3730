"""From graded samples to the batches of a step's updates: what each token is to be learned by."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from r1jax.config import Config
from r1jax.objectives import advantages as advantages_lib
from r1jax.training.batches import BatchShape, Minibatch, deal, pack_rows
from r1jax.training.setup import Setup
from r1jax.training.step import forward
from r1jax.types import Graded, PackedBatch, Params


def make_minibatches(
    config: Config, shape: BatchShape, graded: Graded | None, step: int
) -> list[Minibatch]:
    """Those of the step's updates, in their order; none where there is nothing to learn from."""
    if graded is None:
        return []
    advantages_R = compute_advantages(config, graded)
    counts_R = graded.valid
    if config.rl.mask_cut:
        counts_R = counts_R & graded.rollouts.finished
    rows = np.arange(len(counts_R))
    if config.rl.dynamic.mode == "drop":
        rows = rows[in_band(config, graded)[rows // config.rl.samples_per_prompt]]
    return [
        pack_rows(shape, graded, dealt, advantages_R, counts_R)
        for dealt in deal(config, rows, step)
    ]


def compute_advantages(config: Config, graded: Graded) -> np.ndarray:
    """One advantage per response, [R]; the outcome itself where a critic will make advantages."""
    rl = config.rl
    if rl.has_critic:
        return graded.rewards
    valid_PG = graded.valid.reshape(-1, rl.samples_per_prompt)
    if rl.dynamic.mode == "drop":  # the step's deviation is of those that are left
        valid_PG = valid_PG & in_band(config, graded)[:, None]
    # Fewer groups than wanted are the same program: those that are missing are not valid.
    missing = ((0, max(0, rl.prompts_per_step - len(valid_PG))), (0, 0))
    advantages_PG = _group_normalized(
        np.pad(graded.rewards.reshape(valid_PG.shape), missing),
        scale=rl.advantage_scale,
        eps=rl.advantage_eps,
        valid=np.pad(valid_PG, missing),
    )
    return np.asarray(advantages_PG)[: len(valid_PG)].reshape(-1)


_group_normalized = jax.jit(advantages_lib.group_normalized, static_argnames=("scale", "eps"))


def shares_correct(config: Config, graded: Graded) -> np.ndarray:
    """The share of correct answers of each group's samples that were judged, [P]; NaN = none."""
    shape = (-1, config.rl.samples_per_prompt)
    valid_PG, correct_PG = graded.valid.reshape(shape), graded.correct.reshape(shape)
    judged_P = valid_PG.sum(axis=1)
    right_P = (valid_PG & correct_PG).sum(axis=1)
    return np.where(judged_P > 0, right_P / np.maximum(judged_P, 1), np.nan)


def in_band(config: Config, graded: Graded) -> np.ndarray:
    """[P] bool"""
    low, high = config.rl.dynamic.band
    share_P = shares_correct(config, graded)
    return (share_P > low) & (share_P < high)


def flat_verdicts(config: Config, graded: Graded) -> np.ndarray:
    """[P] float32: 1 where all of a group are right and get the same reward, -1 where all are
    wrong and do, 0 elsewhere."""
    shape = (-1, config.rl.samples_per_prompt)
    rewards_PG, valid_PG = graded.rewards.reshape(shape), graded.valid.reshape(shape)
    highest_P = np.where(valid_PG, rewards_PG, -np.inf).max(axis=1)
    lowest_P = np.where(valid_PG, rewards_PG, np.inf).min(axis=1)
    share_P = shares_correct(config, graded)
    verdict_P = np.where(share_P == 1, 1, np.where(share_P == 0, -1, 0))
    return np.where(highest_P == lowest_P, verdict_P, 0).astype(np.float32)


def with_reference(
    setup: Setup, reference: Params | None, batch: PackedBatch, used: int, temperature: float
) -> PackedBatch:
    """The batch with the reference's log-probs; untouched where no KL asks for them."""
    if reference is None:
        return batch
    logp_ref, _ = _evaluate(setup.module, reference, batch, np.int32(used), temperature)
    return dataclasses.replace(batch, logp_ref=logp_ref)


def with_old_policy(
    setup: Setup, policy: Params, batch: PackedBatch, used: int, temperature: float
) -> PackedBatch:
    """The batch with the log-probs of the policy as it is before the step's updates."""
    logp_old, _ = _evaluate(setup.module, policy, batch, np.int32(used), temperature)
    return dataclasses.replace(batch, logp_old=logp_old)


def with_zero_variance(
    setup: Setup,
    policy: Params,
    batch: PackedBatch,
    used: int,
    temperature: float,
    verdicts_P: np.ndarray,
) -> PackedBatch:
    """RL-ZVP (2509.21880): tokens of flat groups get their advantage from their entropy, under the
    policy that is about to be updated."""
    _, entropy = _evaluate(setup.module, policy, batch, np.int32(used), temperature)
    alpha = setup.config.rl.dynamic.zvp_alpha
    missing = max(0, setup.config.rl.prompts_per_step - len(verdicts_P))
    shaped = _zero_variance(batch, entropy, np.pad(verdicts_P, (0, missing)), alpha)
    return dataclasses.replace(batch, advantages=shaped)


@functools.partial(jax.jit, static_argnums=3)
def _zero_variance(
    batch: PackedBatch, entropy: Array, verdicts_P: Array, alpha: float
) -> Float[Array, "M B T"]:
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), batch)
    verdicts_BT = verdicts_P[flat.prompt_ids]
    shaped = advantages_lib.zero_variance(
        flat.advantages,
        entropy.reshape(flat.mask.shape),
        flat.mask,
        is_all_right=verdicts_BT > 0,
        is_all_wrong=verdicts_BT < 0,
        alpha=alpha,
        segment_ids=flat.sequence_ids,
    )
    return shaped.reshape(batch.mask.shape)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _evaluate(
    module: Any, params: Params, batch: PackedBatch, used: ArrayLike, temperature: float
) -> tuple[Array, Array]:
    """(log-probs, entropies) of the first `used` micro-batches, zeros in the others."""

    def one(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        micro = jax.tree.map(lambda leaf: leaf[index], batch)
        new = forward(module, params, micro, temperature)
        return found[0].at[index].set(new.logp), found[1].at[index].set(new.entropy)

    zeros = jnp.zeros(batch.mask.shape, batch.logp_ref.dtype)
    return jax.lax.fori_loop(0, used, one, (zeros, zeros))
