"""Losses on judged pairs and labels: DPO, reward models, process reward models.

One entry per pair or label; `mask` is True where it counts, `denominator` replaces their number so
that the losses of micro-batches add up to that of the step.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.objectives import reductions
from r1jax.objectives.kl import bound_logp
from r1jax.objectives.reductions import (
    Real,
    Scalar,
    masked_mean,
    require_choice,
    require_shape,
)

Stats = dict[str, Array]
PairLoss = Literal["sigmoid", "ipo"]

SEQUENCE_FLOOR = -1e8  # 10,000 tokens at the floor of a token's log-prob


def sequence_logp(
    logp: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    average: bool = False,
) -> Float[Array, "B T"]:
    """Log-prob of each token's sequence: the sum, or the mean, over its counted tokens.

    A token's below -10,000 (-inf) is read as the constant -10,000.
    """
    require_shape(logp.shape, mask=mask, segment_ids=segment_ids)
    logp = bound_logp(jnp.where(mask, logp, 0))
    if average:
        return reductions.sequence_mean(logp, mask, segment_ids)
    return jnp.asarray(reductions.sequence_sum(logp, segment_ids))


def dpo_loss(
    chosen: Float[Array, "B"],
    rejected: Float[Array, "B"],
    *,
    beta: Real,
    ref_chosen: Float[Array, "B"] | None = None,
    ref_rejected: Float[Array, "B"] | None = None,
    loss: PairLoss = "sigmoid",
    label_smoothing: Real = 0.0,
    mask: Bool[Array, "B"] | None = None,
    denominator: Scalar | None = None,
) -> tuple[Float[Array, ""], Stats]:
    """Direct preference optimisation on the log-probs of the two answers of each pair.

    With h = log pi/pi_ref (chosen) - log pi/pi_ref (rejected), and e = label_smoothing:

        sigmoid  -(1 - e) log sigma(beta h) - e log sigma(-beta h)    DPO 2305.18290; cDPO: e > 0
        ipo      (h - 1 / (2 beta))^2                                 IPO 2310.12036

    Log-probs are sums over the completion for `sigmoid`, means for `ipo` (`sequence_logp`), as its
    authors use it. Without reference log-probs the loss is reference-free: pi_ref cancels. What is
    below -1e8 (-inf) is read as the constant -1e8.
    Statistics are sums over `pairs`, named as in TRL.
    """
    require_choice("loss", loss, PairLoss)
    if (ref_chosen is None) != (ref_rejected is None):
        raise ValueError("give both of ref_chosen and ref_rejected, or neither")
    references = {"ref_chosen": ref_chosen, "ref_rejected": ref_rejected}
    require_shape(chosen.shape, rejected=rejected, mask=mask, **references)
    if mask is None:
        mask = jnp.ones(chosen.shape, bool)
    chosen, rejected = bound_logp(chosen, SEQUENCE_FLOOR), bound_logp(rejected, SEQUENCE_FLOOR)
    if ref_chosen is not None and ref_rejected is not None:
        chosen = chosen - bound_logp(jnp.asarray(ref_chosen), SEQUENCE_FLOOR)
        rejected = rejected - bound_logp(jnp.asarray(ref_rejected), SEQUENCE_FLOOR)
    chosen, rejected = jnp.where(mask, chosen, 0), jnp.where(mask, rejected, 0)
    margins = beta * (chosen - rejected)
    if loss == "ipo":
        losses = jnp.square(chosen - rejected - 1 / (2 * beta))
    else:
        losses = -(1 - label_smoothing) * jax.nn.log_sigmoid(margins)
        losses -= label_smoothing * jax.nn.log_sigmoid(-margins)
    stats = {
        "rewards/chosen_sum": beta * chosen.sum(),
        "rewards/rejected_sum": beta * rejected.sum(),
        "rewards/margins_sum": margins.sum(),
        "rewards/accuracies_sum": (mask & (margins > 0)).sum().astype(margins.dtype),
        "pairs": mask.sum().astype(margins.dtype),
    }
    return masked_mean(losses, mask, denominator), jax.lax.stop_gradient(stats)


def bradley_terry_loss(
    chosen: Float[Array, "B"],
    rejected: Float[Array, "B"],
    *,
    margin: Float[Array, "B"] | None = None,
    mask: Bool[Array, "B"] | None = None,
    denominator: Scalar | None = None,
) -> tuple[Float[Array, ""], Stats]:
    """Pairwise reward-model loss: mean of -log sigma(r_chosen - r_rejected - margin).

    Bradley & Terry 1952; R1's helpfulness reward model. Statistics are sums over `pairs`.
    """
    require_shape(chosen.shape, rejected=rejected, margin=margin, mask=mask)
    if mask is None:
        mask = jnp.ones(chosen.shape, bool)
    differences = jnp.where(mask, chosen - rejected, 0)
    losses = -jax.nn.log_sigmoid(differences if margin is None else differences - margin)
    stats = {
        "accuracy_sum": (mask & (differences > 0)).sum().astype(differences.dtype),
        "margin_sum": differences.sum(),
        "pairs": mask.sum().astype(differences.dtype),
    }
    return masked_mean(losses, mask, denominator), jax.lax.stop_gradient(stats)


def binary_loss(
    logits: Float[Array, "*shape"],
    labels: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    *,
    denominator: Scalar | None = None,
) -> tuple[Float[Array, ""], Stats]:
    """Mean binary cross-entropy, -y log sigma(z) - (1 - y) log sigma(-z); y may be soft.

    One label per answer [B] for a point-wise reward model (R1's safety model); [B, T] with the mask
    True at step ends for a process reward model (Math-Shepherd 2312.08935).
    """
    require_shape(logits.shape, labels=labels, mask=mask)
    logits, labels = jnp.where(mask, logits, 0), jnp.where(mask, labels, 0)
    losses = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    is_right = mask & ((logits > 0) == (labels > 0.5))
    stats = {
        "accuracy_sum": is_right.sum().astype(logits.dtype),
        "labels": mask.sum().astype(logits.dtype),
    }
    return masked_mean(losses, mask, denominator), jax.lax.stop_gradient(stats)
