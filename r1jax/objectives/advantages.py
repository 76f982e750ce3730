"""Advantages: what each sample, or each token, was worth against a baseline.

Rewards of one step come as [P, G]: P prompts, G samples of each. `valid` is True where a sample
counts (graded, not filtered); an invalid sample enters no statistic and gets advantage 0.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def _moments(rewards_PG, valid_PG, ddof):
    """Mean and deviation of the valid rewards of each group, [P, 1]; 0 for an empty group."""
    count_P1 = valid_PG.sum(axis=1, keepdims=True).astype(rewards_PG.dtype)
    mean_P1 = jnp.where(valid_PG, rewards_PG, 0).sum(axis=1, keepdims=True) / jnp.maximum(
        count_P1, 1
    )
    squares_PG = jnp.where(valid_PG, jnp.square(rewards_PG - mean_P1), 0)
    variance_P1 = squares_PG.sum(axis=1, keepdims=True) / jnp.maximum(count_P1 - ddof, 1)
    return mean_P1, jnp.sqrt(variance_P1)


def _first(rewards_PG, valid_PG):
    """The first valid reward of each group, [P, 1]."""
    return jnp.take_along_axis(rewards_PG, jnp.argmax(valid_PG, axis=1, keepdims=True), axis=1)


def group_normalized(
    rewards_PG: Float[Array, "P G"],
    *,
    scale: Literal["std", "none", "batch_std"] = "std",
    eps: float = 1e-6,
    ddof: int = 1,
    valid: Bool[Array, "P G"] | None = None,
) -> Float[Array, "P G"]:
    """GRPO's outcome advantage: (r - mean of the group) / (scale + eps).

    `scale` is the group's standard deviation (DeepSeekMath 2402.03300), nothing (Dr. GRPO
    2503.20783), or the standard deviation of all the step's rewards (Lite PPO 2508.08221).
    `ddof` 1 is what TRL, verl and torch compute, 0 the population form. Equal rewards and
    groups of one give exactly 0.
    """
    if valid is None:
        valid = jnp.ones(rewards_PG.shape, bool)
    mean_P1, std_P1 = _moments(rewards_PG, valid, ddof)
    # The rounded mean of equal rewards can miss them by an ulp, which a division by ~0 would
    # blow up.
    is_flat_P1 = jnp.all(~valid | (rewards_PG == _first(rewards_PG, valid)), axis=1, keepdims=True)
    centred_PG = jnp.where(valid & ~is_flat_P1, rewards_PG - mean_P1, 0)
    if scale == "none":
        return centred_PG
    if scale == "std":
        return centred_PG / (std_P1 + eps)
    if scale == "batch_std":
        _, std_11 = _moments(rewards_PG.reshape(1, -1), valid.reshape(1, -1), ddof)
        return centred_PG / (std_11 + eps)
    raise ValueError(f"unknown scale {scale!r}: use 'std', 'none' or 'batch_std'")
