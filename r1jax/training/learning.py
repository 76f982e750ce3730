"""From graded samples to the batches of a step's updates: what each token is to be learned by."""

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from r1jax.config import Config
from r1jax.objectives import advantages as advantages_lib
from r1jax.rollout.stop_strings import Decoder
from r1jax.training.batches import BatchShape, Minibatch, deal, pack_rows
from r1jax.training.lanes import add_shares, by_lane
from r1jax.training.setup import Setup
from r1jax.training.step import forward
from r1jax.types import Graded, PackedBatch, Params


def make_minibatches(
    config: Config,
    shape: BatchShape,
    graded: Graded | None,
    step: int,
    decode_text: Decoder | None = None,
) -> list[Minibatch]:
    """Those of the step's updates, in their order; none where there is nothing to learn from.

    `decode_text` finds the tokens at which steps end, for advantages of steps only.
    """
    if graded is None:
        return []
    if config.rl.advantage == "process":
        if decode_text is None:
            raise ValueError("advantages of steps need decode_text")
        advantages = process_advantages(config, graded, decode_text)
    else:
        advantages = compute_advantages(config, graded)
    counts_R = graded.valid
    if config.rl.mask_cut:
        counts_R = counts_R & graded.rollouts.finished
    rows = np.arange(len(counts_R))
    if config.rl.dynamic.mode == "drop":
        rows = rows[in_band(config, graded)[rows // config.rl.samples_per_prompt]]
    return [
        pack_rows(shape, graded, dealt, advantages, counts_R, likelihood=config.rl.positive_nll > 0)
        for dealt in deal(config, rows, step)
    ]


def compute_advantages(config: Config, graded: Graded) -> np.ndarray:
    """One advantage per response, [R]; the outcome itself where a critic will make advantages."""
    if config.rl.has_critic:
        return graded.rewards
    rl, valid_PG = config.rl, valid_samples(config, graded)
    # Fewer groups than wanted are the same program: those that are missing are not valid.
    missing = ((0, max(0, rl.prompts_per_step - len(valid_PG))), (0, 0))
    advantages_PG = _group_normalized(
        np.pad(graded.rewards.reshape(valid_PG.shape), missing),
        scale=rl.advantage_scale,
        eps=rl.advantage_eps,
        valid=np.pad(valid_PG, missing),
    )
    return np.asarray(advantages_PG)[: len(valid_PG)].reshape(-1)


def valid_samples(config: Config, graded: Graded) -> np.ndarray:
    """[P, G] bool, True = it enters the statistics."""
    valid_PG = graded.valid.reshape(-1, config.rl.samples_per_prompt)
    if config.rl.dynamic.mode == "drop":  # the step's deviation is of those that are left
        valid_PG = valid_PG & in_band(config, graded)[:, None]
    return valid_PG


_group_normalized = jax.jit(advantages_lib.group_normalized, static_argnames=("scale", "eps"))


def process_advantages(config: Config, graded: Graded, decode_text: Decoder) -> np.ndarray:
    """One advantage per token of each response, [R, S]: `advantages.process_sum`."""
    rl, rollouts = config.rl, graded.rollouts
    valid_R = valid_samples(config, graded).reshape(-1)
    most = max((len(steps) for steps in graded.steps), default=0)
    # Fewer groups than wanted, and other numbers of steps up to a power of two, are one program.
    groups = max(rl.prompts_per_step, len(rollouts.prompts))
    shape = (groups * rl.samples_per_prompt, 1 << max(3, (most - 1).bit_length()))
    rewards, ends = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    for row in np.flatnonzero(valid_R).tolist():
        steps = graded.steps[row]
        rewards[row, : len(steps)] = [reward for _, reward in steps]
        ends[row, : len(steps)] = last_tokens(rollouts.response(row), steps, decode_text)
    advantages_PGT = _process_sum(
        rewards.reshape(groups, -1, shape[1]),
        ends.reshape(groups, -1, shape[1]),
        length=rollouts.tokens.shape[1],
        eps=rl.advantage_eps,
    )
    return np.asarray(advantages_PGT).reshape(shape[0], -1)[: len(valid_R)]


_process_sum = jax.jit(advantages_lib.process_sum, static_argnames=("length", "eps"))


def last_tokens(
    tokens: np.ndarray, steps: Sequence[tuple[int, float]], decode_text: Decoder
) -> list[int]:
    """The place of each step's last token. What follows the text, its EOS, is the last step's."""

    def written(place: int) -> int:
        return len(decode_text(tokens[: place + 1].tolist()))

    places, text = range(len(tokens)), written(len(tokens) - 1)
    return [
        places[-1] if end >= text else bisect.bisect_left(places, end, key=written)
        for end, _ in steps
    ]


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
    logp_ref, _ = evaluate_batch(setup, reference, batch, used, temperature)
    return dataclasses.replace(batch, logp_ref=logp_ref)


def with_old_policy(
    setup: Setup, policy: Params, batch: PackedBatch, used: int, temperature: float
) -> PackedBatch:
    """The batch with the log-probs of the policy as it is before the step's updates."""
    logp_old, _ = evaluate_batch(setup, policy, batch, used, temperature)
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
    _, entropy = evaluate_batch(setup, policy, batch, used, temperature)
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


def evaluate_batch(
    setup: Setup, params: Params, batch: PackedBatch, used: int, temperature: float
) -> tuple[Array, Array]:
    """(log-probs, entropies) of the first `used` micro-batches, zeros in the others."""

    def work(first: np.int32, end: np.int32) -> tuple[Array, Array]:
        return evaluate_micro(setup.module, params, batch, first, end, temperature)

    return add_shares(by_lane(setup.lanes, batch, used, work))


@functools.partial(jax.jit, static_argnums=(0, 5))
def evaluate_micro(
    module: Any,
    params: Params,
    batch: PackedBatch,
    first: ArrayLike,
    end: ArrayLike,
    temperature: float,
) -> tuple[Array, Array]:
    """(log-probs, entropies) of micro-batches `first` to `end`, zeros in the others."""

    def one(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        micro = jax.tree.map(lambda leaf: leaf[index], batch)
        new = forward(module, params, micro, temperature)
        return found[0].at[index].set(new.logp), found[1].at[index].set(new.entropy)

    zeros = jnp.zeros(batch.mask.shape, batch.logp_ref.dtype)
    return jax.lax.fori_loop(first, end, one, (zeros, zeros))
