"""Advantages: what each sample, or each token, was worth against a baseline.

Outcome rewards of one step come as [P, G]: P prompts, G samples of each. `valid` is True where a
sample counts (graded, not filtered out); an invalid one enters no statistic and gets advantage 0.
Token-level functions take packed rows [B, T] with `segment_ids` (0 = padding), or one sequence per
row without them. Advantages are data: differentiate losses through them only after a stop_gradient,
which `policy_loss` applies.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from r1jax.objectives import reductions
from r1jax.objectives.reductions import HostOrDevice, Real, Scalar

Scale = Literal["std", "none", "batch_std"]


def _mean_std(values, valid, ddof):
    """Mean and deviation of the valid values over the last axis, which is kept with size 1."""
    count = valid.sum(axis=-1, keepdims=True).astype(values.dtype)
    mean = jnp.where(valid, values, 0).sum(axis=-1, keepdims=True) / jnp.maximum(count, 1)
    squares = jnp.where(valid, jnp.square(values - mean), 0)
    variance = squares.sum(axis=-1, keepdims=True) / jnp.maximum(count - ddof, 1)
    return mean, jnp.sqrt(variance)


def is_flat(rewards_PG: Float[Array, "P G"], valid: Bool[Array, "P G"]) -> Bool[Array, "P 1"]:
    """Whether all valid rewards of a group are the same number: nothing to learn by comparison."""
    lowest = jnp.min(jnp.where(valid, rewards_PG, jnp.inf), axis=1, keepdims=True, initial=jnp.inf)
    return jnp.all(~valid | (rewards_PG == lowest), axis=1, keepdims=True)


def _centred(rewards_PG, valid):
    """Rewards minus the mean of their group, exactly 0 in flat groups.

    The rounded mean of equal rewards can miss them by an ulp, and a division by a deviation of
    about 0 would make an advantage of it.
    """
    mean_P1, _ = _mean_std(rewards_PG, valid, ddof=0)
    return jnp.where(valid & ~is_flat(rewards_PG, valid), rewards_PG - mean_P1, 0)


def _over(centred, spread):
    """Centred values by their spread; 0 where there is none, as with `eps` 0 there can be."""
    return jnp.where(spread == 0, 0, centred / jnp.where(spread == 0, 1, spread))


def _floats(rewards) -> Array:
    """Verdicts, True and False, as 1 and 0; whole numbers as what can be divided."""
    rewards = jnp.asarray(rewards)
    return rewards if jnp.issubdtype(rewards.dtype, jnp.floating) else rewards.astype("float32")


def _on_device(rewards_PG, valid):
    rewards_PG = _floats(rewards_PG)
    if rewards_PG.ndim != 2:
        raise ValueError(f"rewards have shape {rewards_PG.shape}: give [prompts, samples of each]")
    reductions.require_shape(rewards_PG.shape, valid=valid)
    return rewards_PG, jnp.ones(rewards_PG.shape, bool) if valid is None else jnp.asarray(valid)


def group_normalized(
    rewards_PG: Shaped[HostOrDevice, "P G"],
    *,
    scale: Scale = "std",
    eps: Real = 1e-6,
    ddof: int = 1,
    valid: Bool[HostOrDevice, "P G"] | None = None,
) -> Float[Array, "P G"]:
    """GRPO's outcome advantage: (r - mean of the group) / (scale + eps).

    `scale` is the standard deviation of the group (DeepSeekMath 2402.03300), none (Dr. GRPO
    2503.20783, DeepSeek-V3.2) or that of all the step's rewards (Lite PPO 2508.08221). `ddof` 1 is
    what torch, TRL and verl compute, 0 the population form. Flat groups and groups of one get 0.
    """
    reductions.require_choice("scale", scale, Scale)
    rewards_PG, valid = _on_device(rewards_PG, valid)
    centred_PG = _centred(rewards_PG, valid)
    if scale == "none":
        return centred_PG
    if scale == "std":
        _, std = _mean_std(rewards_PG, valid, ddof)
    else:
        _, std = _mean_std(rewards_PG.reshape(1, -1), valid.reshape(1, -1), ddof)
    return _over(centred_PG, std + eps)


def rloo(
    rewards_PG: Shaped[HostOrDevice, "P G"], *, valid: Bool[HostOrDevice, "P G"] | None = None
) -> Float[Array, "P G"]:
    """r_i - mean of the group's other rewards = (r_i - mean) n / (n - 1) (RLOO 2402.14740).

    A group of one has no baseline and gets 0.
    """
    rewards_PG, valid = _on_device(rewards_PG, valid)
    count_P1 = valid.sum(axis=1, keepdims=True).astype(rewards_PG.dtype)
    return _centred(rewards_PG, valid) * count_P1 / jnp.maximum(count_P1 - 1, 1)


def max_rl(
    rewards_PG: Shaped[HostOrDevice, "P G"], *, valid: Bool[HostOrDevice, "P G"] | None = None
) -> Float[Array, "P G"]:
    """(r - mean) / mean, for rewards >= 0: a maximum-likelihood weight on hard prompts.

    MaxRL 2602.02710. A group whose mean is not positive gets 0.
    """
    rewards_PG, valid = _on_device(rewards_PG, valid)
    mean_P1, _ = _mean_std(rewards_PG, valid, ddof=0)
    positive_P1 = jnp.where(mean_P1 > 0, mean_P1, 1)
    return jnp.where(mean_P1 > 0, _centred(rewards_PG, valid) / positive_P1, 0)


def gdpo(
    rewards_KPG: Shaped[HostOrDevice, "K P G"],
    weights_K: Float[HostOrDevice, "K"],
    *,
    eps: Real = 1e-4,
    ddof: int = 1,
    valid: Bool[HostOrDevice, "P G"] | None = None,
) -> Float[Array, "P G"]:
    """Normalise each reward by its own group, weigh and add them, then normalise over the step.

    GDPO 2601.05242: a reward that varies little is not drowned by one that varies much. `eps` 1e-4
    is TRL's (normalize_then_sum).
    """
    rewards_KPG, valid = jnp.asarray(rewards_KPG), _on_device(rewards_KPG[0], valid)[1]
    normalized = [
        weight * group_normalized(rewards_PG, eps=eps, ddof=ddof, valid=valid)
        for weight, rewards_PG in zip(jnp.asarray(weights_K), rewards_KPG, strict=True)
    ]
    summed_PG = jnp.stack(normalized).sum(axis=0)
    mean, std = _mean_std(summed_PG.reshape(1, -1), valid.reshape(1, -1), ddof)
    return jnp.where(valid, _over(summed_PG - mean, std + eps), 0)


def process_sum(
    step_rewards: Shaped[HostOrDevice, "P G S"],
    step_ends: Int[HostOrDevice, "P G S"],
    *,
    length: int,
    eps: Real = 1e-6,
    ddof: int = 1,
) -> Float[Array, "P G {length}"]:
    """DeepSeekMath's process supervision (2402.03300, 4.1.3).

    The rewards of all steps of a group are normalised together; the advantage of token t is the sum
    of the normalised rewards of the steps that end at t or later. `step_ends` is the index of each
    step's last token among the completion's `length` tokens; negative: there is no such step.
    """
    step_rewards, step_ends = _floats(step_rewards), jnp.asarray(step_ends)
    reductions.require_shape(step_rewards.shape, step_ends=step_ends)
    valid = step_ends >= 0
    prompts = step_rewards.shape[0]
    normalized = group_normalized(
        step_rewards.reshape(prompts, -1), eps=eps, ddof=ddof, valid=valid.reshape(prompts, -1)
    ).reshape(step_rewards.shape)
    p, g, _ = np.ogrid[tuple(slice(size) for size in step_ends.shape)]
    # Absent steps, whose normalised reward is 0, land on the first token.
    places = (p, g, jnp.maximum(step_ends, 0))
    at_end_PGT = jnp.zeros((*step_ends.shape[:2], length), step_rewards.dtype)
    at_end_PGT = at_end_PGT.at[places].add(normalized)
    return jnp.flip(jnp.cumsum(jnp.flip(at_end_PGT, axis=-1), axis=-1), axis=-1)


def zero_variance(
    advantages_BT: Float[HostOrDevice, "B T"],
    entropy_BT: Float[HostOrDevice, "B T"],
    mask: Bool[HostOrDevice, "B T"],
    *,
    is_all_right: Bool[HostOrDevice, "B T"],
    is_all_wrong: Bool[HostOrDevice, "B T"],
    alpha: Real,
    segment_ids: Int[HostOrDevice, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """RL-ZVP 2509.21880: let flat groups teach through the entropy of their tokens.

    alpha H_t where all samples of the prompt were right, -alpha (max_s H_s - H_t) where all were
    wrong, the maximum over the sequence; the given advantage elsewhere.
    """
    entropy_BT = jax.lax.stop_gradient(jnp.where(mask, entropy_BT, 0))
    highest_BT = reductions.sequence_max(entropy_BT, segment_ids)
    shaped_BT = jnp.where(is_all_right, alpha * entropy_BT, advantages_BT)
    shaped_BT = jnp.where(is_all_wrong, -alpha * (highest_BT - entropy_BT), shaped_BT)
    return jnp.where(mask, shaped_BT, 0)


def whiten(
    values: Float[HostOrDevice, "*shape"], mask: Bool[HostOrDevice, "*shape"], *, eps: Real = 1e-8
) -> Float[Array, "*shape"]:
    """(x - mean) / sqrt(variance + eps) over the counted entries, 0 elsewhere.

    Needs the whole optimizer step at once: means over micro-batches are not the mean of the step.
    """
    values, mask = _floats(values), jnp.asarray(mask)
    reductions.require_shape(values.shape, mask=mask)
    mean, std = _mean_std(values.reshape(-1), mask.reshape(-1), ddof=1)
    return jnp.where(mask, _over(values - mean[0], jnp.sqrt(jnp.square(std[0]) + eps)), 0)


def token_rewards(
    outcome: Shaped[HostOrDevice, "B T"] | Shaped[HostOrDevice, "B"],
    mask: Bool[HostOrDevice, "B T"],
    *,
    segment_ids: Int[HostOrDevice, "B T"] | None = None,
    kl: Float[HostOrDevice, "B T"] | None = None,
    kl_coef: Scalar = 0.0,
) -> Float[Array, "B T"]:
    """The outcome reward at each sequence's last counted token, minus kl_coef * kl at every token.

    This is how PPO and REINFORCE++ keep near the reference; `kl` is usually `kl.k1`.
    """
    outcome_BT = reductions.per_token(_floats(outcome), mask.shape)
    reductions.require_shape(mask.shape, outcome=outcome_BT, segment_ids=segment_ids, kl=kl)
    position_BT = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    last_BT = reductions.sequence_max(jnp.where(mask, position_BT, -1), segment_ids)
    rewards_BT = jnp.where(position_BT == last_BT, outcome_BT, 0)
    if kl is not None:
        rewards_BT = rewards_BT - kl_coef * kl
    return jnp.where(mask, rewards_BT, 0)


def reinforce_pp(
    rewards_BT: Float[HostOrDevice, "B T"],
    mask: Bool[HostOrDevice, "B T"],
    *,
    gamma: Real = 1.0,
    segment_ids: Int[HostOrDevice, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """REINFORCE++ 2501.03262: discounted return to go, whitened over all tokens of the step.

    `rewards_BT` are `token_rewards`, with the KL penalty in them.
    """
    rewards_BT = jnp.asarray(rewards_BT)
    values_BT = jnp.zeros_like(rewards_BT)
    returns_BT, _ = gae(rewards_BT, values_BT, mask, gamma=gamma, lam=1.0, segment_ids=segment_ids)
    return whiten(returns_BT, mask)


def reinforce_pp_baseline(
    rewards_PG: Shaped[HostOrDevice, "P G"],
    *,
    lengths_PG: Int[HostOrDevice, "P G"] | None = None,
    valid: Bool[HostOrDevice, "P G"] | None = None,
    eps: Real = 1e-8,
) -> Float[Array, "P G"]:
    """REINFORCE++-baseline: subtract the group's mean, then whiten over the step.

    2501.03262. With `lengths_PG` each sample counts once per token in the step's mean and
    deviation, as in verl; without, once.
    """
    rewards_PG, valid = _on_device(rewards_PG, valid)
    centred_PG = _centred(rewards_PG, valid)
    count_PG = valid.astype(rewards_PG.dtype)
    if lengths_PG is not None:
        count_PG = count_PG * jnp.asarray(lengths_PG).astype(rewards_PG.dtype)
    total = count_PG.sum()
    mean = (count_PG * centred_PG).sum() / jnp.maximum(total, 1)
    squares = (count_PG * jnp.square(centred_PG - mean)).sum()
    variance = squares / jnp.maximum(total - 1, 1)
    return jnp.where(valid, _over(centred_PG - mean, jnp.sqrt(variance + eps)), 0)


def gae(
    rewards_BT: Float[HostOrDevice, "B T"],
    values_BT: Float[HostOrDevice, "B T"],
    mask_BT: Bool[HostOrDevice, "B T"],
    *,
    gamma: Real,
    lam: Real | Float[HostOrDevice, "B T"],
    segment_ids: Int[HostOrDevice, "B T"] | None = None,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Generalised advantage estimation (1506.02438): advantages and value targets.

        delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam_t A_{t+1},   return = A + V

    The next token is the next *counted* one of the (contiguous) segment, V = 0 after the last:
    tokens that do not count (tool output) are stepped over. VAPO (2504.05118) is two calls: the
    policy's advantages with `length_adaptive_lambda`, the critic's returns with lam = 1.
    """
    rewards_BT, values_BT, mask_BT = _floats(rewards_BT), _floats(values_BT), jnp.asarray(mask_BT)
    of_tokens = {"values": values_BT, "mask": mask_BT, "segment_ids": segment_ids}
    reductions.require_shape(rewards_BT.shape, **of_tokens)
    if segment_ids is None:
        segment_ids = np.ones(mask_BT.shape, "int32")
    segment_ids = jnp.asarray(segment_ids)
    lam_BT = jnp.broadcast_to(jnp.asarray(lam, rewards_BT.dtype), mask_BT.shape)

    def step(carry, now):
        next_value, next_advantage, next_segment = carry
        reward, value, mask, segment, lam = now
        is_same = segment == next_segment
        next_value = jnp.where(is_same, next_value, 0)
        next_advantage = jnp.where(is_same, next_advantage, 0)
        delta = reward + gamma * next_value - value
        advantage = jnp.where(mask, delta + gamma * lam * next_advantage, next_advantage)
        return (jnp.where(mask, value, next_value), advantage, segment), advantage

    zeros_B = jnp.zeros_like(rewards_BT[:, 0])
    inputs = (rewards_BT, values_BT, mask_BT, segment_ids, lam_BT)
    _, advantages_TB = jax.lax.scan(
        step,
        (zeros_B, zeros_B, segment_ids[:, -1]),
        jax.tree.map(jnp.transpose, inputs),
        reverse=True,
    )
    advantages_BT = jnp.where(mask_BT, advantages_TB.T, 0)
    return advantages_BT, jnp.where(mask_BT, advantages_BT + values_BT, 0)


def length_adaptive_lambda(
    mask: Bool[HostOrDevice, "B T"],
    *,
    alpha: Real = 0.05,
    segment_ids: Int[HostOrDevice, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """lam = 1 - 1 / (alpha * length), not below 0 (VAPO 2504.05118, alpha 0.05)."""
    length_BT = reductions.sequence_sum(mask.astype("float32"), segment_ids)
    return jnp.maximum(1 - 1 / (alpha * jnp.maximum(length_BT, 1)), 0.0)
