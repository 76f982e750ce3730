"""Weights that correct for samples which another policy drew than the one they are credited to.

`log_weight` = logp_old - logp_behavior: the trainer's view of the policy that sampled, against the
sampler's own (another engine, another precision, an older version). All weights are >= 0 and carry
no gradient, so multiplying the advantage by them is multiplying the surrogate by them.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.objectives import reductions
from r1jax.objectives.kl import bound_log_ratio
from r1jax.objectives.reductions import Real

Correction = Literal[
    "none", "tis", "icepop", "sequence_mask", "sequence_product_tis", "sequence_product_mask"
]


def correction_weights(
    correction: Correction,
    log_weight: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    low: Real | None,
    high: Real | None,
    segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """Weight of each token; w is the token's ratio, None an absent bound.

    tis                    clip(w, low, high)                  TRL token_truncate, verl token
    icepop                 w if low <= w <= high, else 0       2510.18855, TRL token_mask
    sequence_mask          w if low <= m <= high, else 0       m = (prod w)^(1/T): seq-mask-TIS
    sequence_product_tis   clip(p, low, high)                  p = prod w: TRL sequence_truncate
    sequence_product_mask  p if low <= p <= high, else 0       TRL sequence_mask, its default
    """
    weight = jnp.exp(bound_log_ratio(log_weight))
    if correction == "none":
        return jnp.ones_like(weight)
    judged = weight
    if correction == "sequence_mask":
        mean = reductions.sequence_mean(log_weight, mask, segment_ids)
        judged = jnp.exp(bound_log_ratio(mean))
    elif correction != "tis" and correction != "icepop":
        total = reductions.sequence_sum(jnp.where(mask, log_weight, 0), segment_ids)
        weight = judged = jnp.exp(bound_log_ratio(jnp.asarray(total)))
    low, high = low if low is not None else 0.0, high if high is not None else jnp.inf
    if correction in ("tis", "sequence_product_tis"):
        return jax.lax.stop_gradient(jnp.clip(weight, low, high))
    return jax.lax.stop_gradient(jnp.where((judged >= low) & (judged <= high), weight, 0))


def off_policy_sequence_mask(
    logp: Float[Array, "B T"],
    logp_behavior: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    delta: Real,
    segment_ids: Int[Array, "B T"] | None = None,
) -> Bool[Array, "B T"]:
    """False at tokens with A < 0 of sequences with mean_t log(pi_behavior / pi) > delta.

    DeepSeek-V3.2 (2512.02556) learns nothing from its mistakes of long ago.
    """
    drift = reductions.sequence_mean(jax.lax.stop_gradient(logp_behavior - logp), mask, segment_ids)
    return (advantages >= 0) | (drift <= delta)
