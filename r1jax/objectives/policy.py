"""Policy-gradient losses: every published variant is one choice on each of a few axes.

The loss of a step is a weighted sum over its counted tokens

    loss = sum_t weight_t * ( -surrogate_t + kl_coef * kl_t - entropy_coef * entropy_t )

in which the aggregation is nothing but the weights. They are computed once for all sequences of an
optimizer step, so how these are split into micro-batches, packed or sharded cannot change the loss.

Broken numbers: what stands at a token that does not count has no influence, not even on gradients.
A log-prob below -10,000 (-inf: outside a truncated sampler's support) is read as the constant
-10,000, a log-ratio beyond +-20 as the constant +-20. A NaN at a counted token stays a NaN.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.objectives import kl as kl_lib
from r1jax.objectives import reductions
from r1jax.objectives.correction import Correction, correction_weights, off_policy_sequence_mask
from r1jax.objectives.reductions import HostOrDevice, Real, Scalar

Ratio = Literal["token", "sequence", "sequence_token"]
Surrogate = Literal["clip", "cispo", "sapo", "reinforce"]
Aggregation = Literal["token_mean", "sequence_mean", "prompt_mean", "constant"]
Kl = Literal["none", "k1", "k2", "k3", "k3_unbiased"]
Stats = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class PolicyObjective:
    """What is optimised, as orthogonal choices. The ratio is kept in [1 - clip_low, 1 + clip_high].

    ratio: pi / pi_old of the token; of the sequence, as geometric mean (GSPO); or the sequence's
    value with the token's gradient (GSPO-token).
    surrogate: see `compute_surrogate`. dual_clip and sapo_tau belong to one surrogate each.
    aggregation: see `token_weights`. kl: see `kl.py`; added to the loss, with the same weights, or
    with `kl_in_reward` left to who makes the advantages: `advantages.token_rewards`.
    correction: see `correction.py`; `off_policy_delta` is DeepSeek-V3.2's off-policy sequence mask.
    Coefficients may be traced scalars, for controllers that adapt them from step to step.
    """

    ratio: Ratio = "token"
    surrogate: Surrogate = "clip"
    clip_low: Real | None = 0.2  # None: no bound on this side
    clip_high: Real | None = 0.2
    dual_clip: Real | None = None
    sapo_tau: tuple[float, float] = (1.0, 1.05)
    aggregation: Aggregation = "token_mean"
    constant_length: int | None = None
    kl: Kl = "none"
    kl_coef: Scalar = 0.0
    kl_in_reward: bool = False
    correction: Correction = "none"
    correction_low: Real | None = None
    correction_high: Real | None = None
    off_policy_delta: Real | None = None
    entropy_coef: Scalar = 0.0

    def __post_init__(self):
        choices = {
            "ratio": Ratio,
            "surrogate": Surrogate,
            "aggregation": Aggregation,
            "kl": Kl,
            "correction": Correction,
        }
        for field, literal in choices.items():
            reductions.require_choice(field, getattr(self, field), literal)
        if (self.aggregation == "constant") != (self.constant_length is not None):
            raise ValueError("aggregation='constant' and constant_length need each other")
        if self.kl == "none" and not _is_zero(self.kl_coef):
            raise ValueError("kl_coef needs an estimator: set kl to k1, k2, k3 or k3_unbiased")
        if self.kl_in_reward and self.kl != "k1":
            raise ValueError(f"kl_in_reward needs kl='k1', the log-ratio; kl is {self.kl!r}")
        if self.correction != "none" and self.correction_low is self.correction_high is None:
            raise ValueError(
                f"correction={self.correction!r} needs correction_low or correction_high"
            )
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip={self.dual_clip}: the bound on the ratio must exceed 1")
        self._refuse_negative()
        if self.constant_length is not None and self.constant_length < 1:
            raise ValueError(f"constant_length={self.constant_length}: must be 1 or more")
        if min(self.sapo_tau) <= 0:
            raise ValueError(f"sapo_tau={self.sapo_tau}: temperatures must be above 0")
        low, high = self.correction_low, self.correction_high
        if low is not None and high is not None and low > high:
            raise ValueError(f"correction_low={low}: is above correction_high={high}")

    def _refuse_negative(self) -> None:
        names = ("clip_low", "clip_high", "kl_coef", "correction_low", "correction_high")
        for name in names:
            value = getattr(self, name)
            if isinstance(value, float | int) and value < 0:
                raise ValueError(f"{name}={value}: must be 0 or more")

    @property
    def needs_reference(self) -> bool:
        """Whether anything reads `logp_ref`: a KL with coefficient 0 costs no reference pass."""
        return self.kl != "none" and not _is_zero(self.kl_coef)

    @property
    def is_by_token(self) -> bool:
        """Whether the loss is a sum of terms that need to know of one token only, once its
        weight is given: it may then be computed token by token."""
        of_tokens = self.ratio == "token" and self.correction in ("none", "tis", "icepop")
        return of_tokens and self.off_policy_delta is None


def _is_zero(coefficient) -> bool:
    """Whether a coefficient is the number 0; a traced one never is."""
    return isinstance(coefficient, int | float) and coefficient == 0


def _divisors(objective, mask, segment_ids, prompt_ids, dtype):
    """What each counted token's loss is divided by within its group, and the number of groups."""
    xp = reductions.namespace(mask)
    if objective.aggregation == "token_mean":
        return xp.ones(mask.shape, "int32"), mask.sum()
    if objective.aggregation == "constant":
        sequences = reductions.sequence_count(mask, segment_ids)
        # Not in integers: 40,000 sequences of 65,536 tokens are more than 32 bits hold.
        return xp.ones(mask.shape, "int32"), sequences.astype(dtype) * objective.constant_length
    if objective.aggregation == "sequence_mean":
        if segment_ids is None:
            segment_ids = xp.ones(mask.shape, "int32")
        return _group_sizes(mask, segment_ids)
    if prompt_ids is None:
        raise ValueError("aggregation='prompt_mean' needs prompt_ids")
    ids_BT = reductions.per_token(prompt_ids, mask.shape)
    # A prompt's group may lie in several rows, so all rows are read as one.
    sizes_1N, groups = _group_sizes(mask.reshape(1, -1), ids_BT.reshape(1, -1))
    return sizes_1N.reshape(mask.shape), groups


def _group_sizes(mask_BT, ids_BT):
    """Counted tokens of each token's group (at least 1), and the number of groups with any."""
    xp = reductions.namespace(mask_BT)
    totals_BT, index_BT = reductions.group_totals(mask_BT.astype("int32"), ids_BT)
    return xp.maximum(xp.take_along_axis(totals_BT, index_BT, axis=-1), 1), (totals_BT > 0).sum()


def token_weights(
    objective: PolicyObjective,
    mask: Bool[HostOrDevice, "B T"],
    *,
    segment_ids: Int[HostOrDevice, "B T"] | None = None,
    prompt_ids: Int[HostOrDevice, "B T"] | Int[HostOrDevice, "B"] | None = None,
    denominator: Scalar | None = None,
    dtype: str | jnp.dtype = "float32",
) -> Float[HostOrDevice, "B T"]:
    """Weight of each token in the loss: what its group divides it by, over the number of groups.

    token_mean     1 / counted tokens
    sequence_mean  1 / (counted tokens of the sequence * sequences with any)     GRPO as printed
    prompt_mean    1 / (counted tokens of the prompt's group * prompts with any) DAPO as printed
    constant       1 / (constant_length * sequences)                             Dr. GRPO

    Numpy arrays give numpy weights and compile nothing: call it on the host with all rows of an
    optimizer step, then hand each micro-batch its rows. `denominator` replaces the last factor (of
    `constant`, both).
    """
    if segment_ids is not None:
        mask = mask & (segment_ids != 0)
    divisor_BT, total = _divisors(objective, mask, segment_ids, prompt_ids, dtype)
    xp = reductions.namespace(mask)
    groups = reductions.above_0(xp.asarray(total if denominator is None else denominator))
    return mask.astype(dtype) / (divisor_BT.astype(dtype) * groups.astype(dtype))


def policy_loss(
    objective: PolicyObjective,
    *,
    logp: Float[HostOrDevice, "B T"],
    logp_old: Float[HostOrDevice, "B T"] | None,
    advantages: Float[HostOrDevice, "B T"] | Float[HostOrDevice, "B"],
    mask: Bool[HostOrDevice, "B T"],
    segment_ids: Int[HostOrDevice, "B T"] | None = None,
    prompt_ids: Int[HostOrDevice, "B T"] | Int[HostOrDevice, "B"] | None = None,
    logp_ref: Float[HostOrDevice, "B T"] | None = None,
    logp_behavior: Float[HostOrDevice, "B T"] | None = None,
    entropy: Float[HostOrDevice, "B T"] | None = None,
    denominator: Scalar | None = None,
    weights: Float[HostOrDevice, "B T"] | None = None,
) -> tuple[Float[Array, ""], Stats]:
    """loss = sum_t weight_t (-surrogate_t + kl_coef kl_t - entropy_coef entropy_t), and statistics.

    `mask` is True where a token counts. `advantages` [B] holds one value per row. Without
    `segment_ids` (0 = padding) each row is one sequence. `logp_old=None`: the update is on-policy.
    Gradients flow through `logp` and `entropy` only.

    One batch: give neither `denominator` nor `weights`. Micro-batches: give each its rows of the
    step's `token_weights` as `weights`, and add the losses up. A `denominator` (the step's tokens,
    sequences, prompts, or sequences * constant_length, as the aggregation has it) does the same
    where no prompt spans micro-batches.

    The statistics are sums to add up with `add_stats` and to read with `mean_stats`.
    """
    _require_shapes(logp, advantages=advantages, prompt_ids=prompt_ids)
    of_tokens = {"logp_old": logp_old, "logp_ref": logp_ref, "logp_behavior": logp_behavior}
    of_tokens |= {"mask": mask, "segment_ids": segment_ids, "entropy": entropy, "weights": weights}
    reductions.require_shape(logp.shape, **of_tokens)
    mask = jnp.asarray(mask).astype(bool)
    segment_ids, prompt_ids = _to_device(segment_ids), _to_device(prompt_ids)
    if segment_ids is not None:
        mask = mask & (segment_ids != 0)
    dtype = logp.dtype if logp.dtype.itemsize >= 4 else jnp.dtype("float32")
    if weights is not None and denominator is not None:
        raise ValueError("give weights or denominator: weights are divided already")
    if weights is None:
        groups = {"segment_ids": segment_ids, "prompt_ids": prompt_ids}
        weights = token_weights(objective, mask, denominator=denominator, dtype=dtype, **groups)
    logp, entropy = _clean_logp(logp, mask, dtype), _clean(entropy, mask, dtype)
    logps = (logp if logp_old is None else logp_old, logp_ref, logp_behavior)
    logps = (_clean_logp(x, mask, dtype) for x in logps)
    others = (reductions.per_token(advantages, mask.shape), weights)
    data = (*logps, *(_clean(x, mask, dtype) for x in others))
    old, ref, behavior, credit, weight = jax.lax.stop_gradient(data)

    credit, stats = _correct(objective, credit, (logp, old, behavior), mask, segment_ids)
    log_ratio = logp - old
    level = _log_ratio_at_level(objective, log_ratio, mask, segment_ids)
    ratio = jnp.exp(kl_lib.bound_log_ratio(level))
    surrogate, is_low, is_high = compute_surrogate(objective, ratio, credit, logp)
    policy_term = jnp.sum(weight * -surrogate)
    penalty = _penalty(objective, logp, ref, log_ratio, entropy)

    stats |= {"clip_ratio/low_mean": is_low, "clip_ratio/high_mean": is_high}
    stats |= {"clip_ratio/region_mean": is_low | is_high, "ratio/mean": ratio}
    stats |= {"approx_kl": kl_lib.k3(old, logp), "entropy": entropy}
    stats |= {"kl": None if ref is None else kl_lib.k3(logp, ref)}
    stats = {f"{k}_sum": _clean(x, mask, dtype).sum() for k, x in stats.items() if x is not None}
    stats |= {"ratio/max": _clean(ratio, mask, dtype).max(initial=0), "policy_loss": policy_term}
    stats |= {"tokens": mask.sum().astype(dtype)}
    return policy_term + jnp.sum(weight * penalty), jax.lax.stop_gradient(stats)


def _require_shapes(logp, **arrays) -> None:
    if logp.ndim != 2:
        raise ValueError(f"logp has shape {logp.shape}: give rows of tokens, [B, T]")
    for name, array in arrays.items():
        if array is not None and array.shape not in (logp.shape, logp.shape[:1]):
            raise ValueError(
                f"{name} has shape {array.shape}, it must be {logp.shape}, or {logp.shape[:1]}: "
                "one for each row"
            )


def _to_device(array) -> Any:
    return None if array is None else jnp.asarray(array)


def _clean(values_BT, mask_BT, dtype) -> Any:
    """0 where the token does not count: no gradient gets past it."""
    if values_BT is None:
        return None
    return jnp.where(mask_BT, jnp.asarray(values_BT).astype(dtype), 0)


def _clean_logp(logp_BT, mask_BT, dtype) -> Any:
    return None if logp_BT is None else kl_lib.bound_logp(_clean(logp_BT, mask_BT, dtype))


def _correct(objective, advantages, samples, mask, segment_ids):
    """The advantages after the corrections for stale or mismatched samples, and statistics."""
    logp, logp_old, logp_behavior = samples
    credit, stats = advantages, {}
    if logp_behavior is not None:
        log_weight = logp_old - logp_behavior
        bounds = {"low": objective.correction_low, "high": objective.correction_high}
        weight = correction_weights(
            objective.correction, log_weight, mask, segment_ids=segment_ids, **bounds
        )
        credit = credit * weight
        stats["sampling/sampling_logp_difference/mean"] = jnp.abs(log_weight)
        stats["sampling/importance_sampling_ratio/mean"] = weight
    elif objective.correction != "none":
        raise ValueError(f"correction={objective.correction!r} needs logp_behavior")
    if objective.off_policy_delta is not None:
        sampled = logp_old if logp_behavior is None else logp_behavior
        options = {"delta": objective.off_policy_delta, "segment_ids": segment_ids}
        is_kept = off_policy_sequence_mask(logp, sampled, advantages, mask, **options)
        credit = jnp.where(is_kept, credit, 0)
        stats["off_policy_masked"] = ~is_kept
    return credit, stats


def _log_ratio_at_level(objective, log_ratio_BT, mask_BT, segment_ids):
    """Token log-ratio, the sequence's mean (GSPO 2507.18071), or that with the token's gradient."""
    if objective.ratio == "token":
        return log_ratio_BT
    mean_BT = reductions.sequence_mean(log_ratio_BT, mask_BT, segment_ids)
    if objective.ratio == "sequence":
        return mean_BT
    return jax.lax.stop_gradient(mean_BT - log_ratio_BT) + log_ratio_BT


def compute_surrogate(
    objective: PolicyObjective,
    ratio: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    logp: Float[Array, "B T"],
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"], Bool[Array, "B T"]]:
    """The objective to maximise per token, and where the bound below or above acted.

    clip       min(r A, clip(r) A)                        PPO 1707.06347; DAPO's bounds differ
               at least dual_clip * A where A < 0         dual-clip PPO 1912.09729
    cispo      sg(clip(r)) A log pi                       MiniMax-M1 2506.13585: all tokens learn
    sapo       A sigmoid(tau (r - 1)) 4 / tau             2511.20347: tau for A >= 0 and for A < 0
    reinforce  A log pi
    """
    low = None if objective.clip_low is None else 1 - objective.clip_low
    high = None if objective.clip_high is None else 1 + objective.clip_high
    never = jnp.zeros(ratio.shape, bool)
    is_low = never if low is None else ratio < low
    is_high = never if high is None else ratio > high
    if objective.surrogate == "cispo":
        return (
            jax.lax.stop_gradient(jnp.clip(ratio, low, high)) * advantages * logp,
            is_low,
            is_high,
        )
    if objective.surrogate == "reinforce":
        return advantages * logp, never, never
    if objective.surrogate == "sapo":
        tau = jnp.where(advantages >= 0, *objective.sapo_tau).astype(ratio.dtype)
        return jax.nn.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages, never, never
    # The minimum, spelt as which bound holds, so that ties have one gradient.
    is_low, is_high = is_low & (advantages < 0), is_high & (advantages > 0)
    surrogate = ratio * advantages
    if low is not None:
        surrogate = jnp.where(is_low, low * advantages, surrogate)
    if high is not None:
        surrogate = jnp.where(is_high, high * advantages, surrogate)
    if objective.dual_clip is not None:
        is_far = (advantages < 0) & (ratio > objective.dual_clip)
        surrogate = jnp.where(is_far, objective.dual_clip * advantages, surrogate)
    return surrogate, is_low, is_high


def _penalty(objective, logp, logp_ref, log_ratio, entropy):
    """kl_coef * kl - entropy_coef * entropy per token."""
    penalty = jnp.zeros_like(logp)
    if objective.needs_reference and not objective.kl_in_reward:
        if logp_ref is None:
            raise ValueError(f"kl={objective.kl!r} needs logp_ref")
        estimators = {"k1": kl_lib.k1, "k2": kl_lib.k2}
        kl = estimators.get(objective.kl, kl_lib.k3)(logp, logp_ref)
        if objective.kl == "k3_unbiased":
            kl = jnp.exp(kl_lib.bound_log_ratio(log_ratio)) * kl
        penalty += objective.kl_coef * kl
    if not _is_zero(objective.entropy_coef):
        if entropy is None:
            raise ValueError("entropy_coef needs entropy")
        penalty -= objective.entropy_coef * entropy
    return penalty


def add_stats(left: Stats, right: Stats) -> Stats:
    """Statistics of two micro-batches together: maxima where the name ends in `max`, else sums."""
    return {
        name: jnp.maximum(value, right[name]) if name.endswith("max") else value + right[name]
        for name, value in left.items()
    }


def mean_stats(stats: Stats) -> Stats:
    """Turn added-up statistics into the numbers to log: `x_sum` becomes `x` = x_sum / tokens.

    `tokens` is a count, `policy_loss` this batch's share of the step's policy term, names that end
    in `max` maxima over counted tokens. `kl` and `approx_kl` are k3 estimates of KL(pi || pi_ref)
    and of KL(pi_old || pi); names with a slash are TRL's.
    """
    tokens = jnp.maximum(stats["tokens"], 1)
    return {
        name.removesuffix("_sum"): value / tokens if name.endswith("_sum") else value
        for name, value in stats.items()
    }
