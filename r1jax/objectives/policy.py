"""Policy-gradient losses: every published variant is a choice on one of six axes.

The loss of a step is a weighted sum over its counted tokens

    loss = sum_t weight_t * ( -surrogate_t + kl_coef * kl_t - entropy_coef * entropy_t )

in which the aggregation is nothing but the weights. They are computed once for all sequences of an
optimizer step, so how these are split into micro-batches, packed or sharded cannot change the loss.

Broken numbers: what stands at a token that does not count has no influence, not even on
gradients. A log-prob below -10,000 (-inf: outside a truncated sampler's support) is read as the
constant -10,000; a log-ratio beyond +-20 as the constant +-20.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.objectives import kl as kl_lib
from r1jax.objectives import reductions

Ratio = Literal["token", "sequence", "sequence_token"]
Surrogate = Literal["clip", "cispo", "sapo", "reinforce"]
Aggregation = Literal["token_mean", "sequence_mean", "prompt_mean", "constant"]
Kl = Literal["none", "k1", "k2", "k3", "k3_unbiased"]
Correction = Literal["none", "tis", "icepop", "sequence_mask"]
Stats = dict[str, Array]

LOGP_FLOOR = -1e4


@dataclasses.dataclass(frozen=True)
class PolicyObjective:
    """What is optimised, as orthogonal choices. The clip bounds are 1 - clip_low, 1 + clip_high."""

    ratio: Ratio = "token"
    surrogate: Surrogate = "clip"
    clip_low: float | None = 0.2  # None: no bound on this side
    clip_high: float | None = 0.2
    dual_clip: float | None = None  # for A < 0 the surrogate is at least dual_clip * A
    sapo_tau: tuple[float, float] = (1.0, 1.05)  # for A >= 0 and A < 0
    aggregation: Aggregation = "token_mean"
    constant_length: int | None = None
    kl: Kl = "none"
    kl_coef: float | Float[Array, ""] = 0.0
    correction: Correction = "none"
    correction_low: float | None = None
    correction_high: float | None = None
    entropy_coef: float | Float[Array, ""] = 0.0

    def __post_init__(self):
        choices = {
            "ratio": Ratio,
            "surrogate": Surrogate,
            "aggregation": Aggregation,
            "kl": Kl,
            "correction": Correction,
        }
        for field, literal in choices.items():
            if getattr(self, field) not in get_args(literal):
                names = ", ".join(get_args(literal))
                raise ValueError(f"{field}={getattr(self, field)!r}: use one of {names}")
        if (self.aggregation == "constant") != (self.constant_length is not None):
            raise ValueError(
                "aggregation='constant' and constant_length go together: set both or neither"
            )
        if self.correction != "none" and self.correction_high is None:
            raise ValueError(f"correction={self.correction!r} needs correction_high")


def token_weights(
    objective: PolicyObjective,
    mask: Bool[reductions.Array, "B T"],
    *,
    segment_ids: Int[reductions.Array, "B T"] | None = None,
    prompt_ids: Int[reductions.Array, "B T"] | Int[reductions.Array, "B"] | None = None,
    denominator: float | Float[reductions.Array, ""] | None = None,
    dtype: str | jnp.dtype = "float32",
) -> Float[reductions.Array, "B T"]:
    """Weight of each token in the loss: its share of its group's mean, over the number of groups.

    token_mean     1 / counted tokens
    sequence_mean  1 / (counted tokens of the sequence * sequences that have one)
    prompt_mean    1 / (counted tokens of the prompt's group * groups that have one)
    constant       1 / (constant_length * sequences)

    Numpy arrays give numpy weights and compile nothing: call it on the host with all rows of an
    optimizer step, then hand each micro-batch its rows. `denominator` replaces the last factor.
    """
    xp = reductions.namespace(mask)
    if segment_ids is not None:
        mask = mask & (segment_ids != 0)
    if objective.aggregation == "token_mean":
        divisor_BT, total = xp.ones(mask.shape, dtype), mask.sum()
    elif objective.aggregation == "constant":
        divisor_BT = xp.full(mask.shape, objective.constant_length, dtype)
        total = reductions.sequence_count(mask, segment_ids)
    elif objective.aggregation == "sequence_mean":
        divisor_BT, total = _group_sizes(mask, segment_ids)
    elif prompt_ids is not None:
        ids_BT = reductions.prompt_ids_of_tokens(prompt_ids, mask.shape)
        # A group may lie in several rows, so all rows are read as one.
        divisor_1N, total = _group_sizes(mask.reshape(1, -1), ids_BT.reshape(1, -1))
        divisor_BT = divisor_1N.reshape(mask.shape)
    else:
        raise ValueError("aggregation='prompt_mean' needs prompt_ids")
    if denominator is None:
        denominator = xp.maximum(total, 1).astype(dtype)
    return mask.astype(dtype) / (divisor_BT.astype(dtype) * denominator)


def _group_sizes(mask_BT, ids_BT):
    """Counted tokens of each token's group (at least 1), and the number of groups that have one."""
    xp = reductions.namespace(mask_BT)
    if ids_BT is None:
        ids_BT = xp.zeros(mask_BT.shape, "int32")
    totals_BT, index_BT = reductions.group_totals(mask_BT.astype("int32"), ids_BT)
    return xp.maximum(xp.take_along_axis(totals_BT, index_BT, axis=-1), 1), (totals_BT > 0).sum()


def policy_loss(
    objective: PolicyObjective,
    *,
    logp: Float[Array, "B T"],
    logp_old: Float[Array, "B T"] | None,
    advantages: Float[Array, "B T"] | Float[Array, "B"],
    mask: Bool[Array, "B T"],
    segment_ids: Int[Array, "B T"] | None = None,
    prompt_ids: Int[Array, "B T"] | Int[Array, "B"] | None = None,
    logp_ref: Float[Array, "B T"] | None = None,
    logp_behavior: Float[Array, "B T"] | None = None,
    entropy: Float[Array, "B T"] | None = None,
    denominator: float | Float[Array, ""] | None = None,
    weights: Float[Array, "B T"] | None = None,
) -> tuple[Float[Array, ""], Stats]:
    """loss = sum_t weight_t (-surrogate_t + kl_coef kl_t - entropy_coef entropy_t), and statistics.

    `mask` is True where a token counts. `advantages` [B] holds one value per row. Without
    `segment_ids` (0 = padding) each row is one sequence. `logp_old=None` means that the update
    is on-policy.

    One batch: give neither `denominator` nor `weights`. Micro-batches: give each its rows of
    `token_weights` of the whole step, and add the losses up. `denominator` (tokens, sequences
    or prompts of the whole step, as the aggregation counts) does the same where no prompt spans
    micro-batches.

    Statistics: see `mean_stats`.
    """
    dtype = logp.dtype if logp.dtype.itemsize >= 4 else jnp.dtype("float32")
    if segment_ids is not None:
        mask = mask & (segment_ids != 0)
    if weights is None:
        weights = token_weights(
            objective,
            mask,
            segment_ids=segment_ids,
            prompt_ids=prompt_ids,
            denominator=denominator,
            dtype=dtype,
        )
    logp = _clean_logp(logp, mask, dtype)
    logp_old = (
        jax.lax.stop_gradient(logp) if logp_old is None else _clean_logp(logp_old, mask, dtype)
    )
    if advantages.ndim == 1:
        advantages = jnp.broadcast_to(advantages[:, None], mask.shape)
    advantages = jnp.where(mask, advantages, 0).astype(dtype)

    log_ratio = logp - logp_old
    ratio = jnp.exp(
        kl_lib.bound_log_ratio(_log_ratio_at_level(objective, log_ratio, mask, segment_ids))
    )
    surrogate, is_low, is_high = _surrogate(objective, ratio, advantages, logp)
    per_token = -surrogate
    policy_term = jnp.sum(weights * per_token)

    stats = {"clip_ratio/low_mean": is_low, "clip_ratio/high_mean": is_high}
    stats |= {"clip_ratio/region_mean": is_low | is_high, "ratio": ratio}
    stats |= {"approx_kl": kl_lib.k3(logp_old, logp)}
    if logp_ref is not None:
        logp_ref = _clean_logp(logp_ref, mask, dtype)
        stats |= {"kl": kl_lib.k3(logp, logp_ref)}
    if entropy is not None:
        entropy = jnp.where(mask, entropy, 0).astype(dtype)
        stats |= {"entropy": entropy}
    if objective.kl != "none":
        if logp_ref is None:
            raise ValueError(f"kl={objective.kl!r} needs logp_ref")
        per_token += objective.kl_coef * _kl_penalty(objective, logp, logp_ref, log_ratio)
    if not _is_zero(objective.entropy_coef):
        if entropy is None:
            raise ValueError("entropy_coef needs entropy")
        per_token -= objective.entropy_coef * entropy
    stats = {f"{name}_sum": jnp.where(mask, x.astype(dtype), 0).sum() for name, x in stats.items()}
    stats |= {"policy_loss": policy_term, "tokens": mask.sum().astype(dtype)}
    return jnp.sum(weights * per_token), jax.lax.stop_gradient(stats)


def _is_zero(coefficient) -> bool:
    """Whether a coefficient is the number 0; a traced one (an adaptive controller's) never is."""
    return isinstance(coefficient, int | float) and coefficient == 0


def _clean_logp(logp_BT, mask_BT, dtype):
    """0 where the token does not count, at least LOGP_FLOOR; no gradient where either holds."""
    logp_BT = jnp.where(mask_BT, logp_BT, 0).astype(dtype)
    return jnp.where(logp_BT < LOGP_FLOOR, LOGP_FLOOR, logp_BT)


def _log_ratio_at_level(objective, log_ratio_BT, mask_BT, segment_ids):
    """Token log-ratio, the sequence's mean (GSPO 2507.18071), or that with the token's gradient."""
    if objective.ratio == "token":
        return log_ratio_BT
    length_BT = reductions.sequence_sum(mask_BT.astype("int32"), segment_ids)
    total_BT = reductions.sequence_sum(log_ratio_BT, segment_ids)
    mean_BT = total_BT / jnp.maximum(length_BT, 1).astype(log_ratio_BT.dtype)
    if objective.ratio == "sequence":
        return mean_BT
    return jax.lax.stop_gradient(mean_BT - log_ratio_BT) + log_ratio_BT


def _surrogate(objective, ratio, advantages, logp):
    """The objective to maximise per token, and where a bound below / above changed it."""
    low = -jnp.inf if objective.clip_low is None else 1 - objective.clip_low
    high = jnp.inf if objective.clip_high is None else 1 + objective.clip_high
    if objective.surrogate == "cispo":
        # MiniMax-M1 2506.13585: sg(clip(r)) A log pi. No token loses its gradient.
        bounded = jax.lax.stop_gradient(jnp.clip(ratio, low, high))
        return bounded * advantages * logp, ratio < low, ratio > high
    never = jnp.zeros(ratio.shape, bool)
    if objective.surrogate == "reinforce":
        return advantages * logp, never, never
    if objective.surrogate == "sapo":
        # SAPO 2511.20347: a sigmoid gate instead of bounds, steeper for negative advantages.
        tau = jnp.where(advantages >= 0, *objective.sapo_tau).astype(ratio.dtype)
        return jax.nn.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages, never, never
    # PPO 1707.06347: min(r A, clip(r) A), written as which bound holds so that ties have one
    # gradient.
    is_low = (advantages < 0) & (ratio < low)
    is_high = (advantages > 0) & (ratio > high)
    surrogate = jnp.where(is_low, low * advantages, ratio * advantages)
    surrogate = jnp.where(is_high, high * advantages, surrogate)
    if objective.dual_clip is not None:
        # Dual-clip PPO 1912.09729: for A < 0 a large ratio stops paying at c.
        is_far = (advantages < 0) & (ratio > objective.dual_clip)
        surrogate = jnp.where(is_far, objective.dual_clip * advantages, surrogate)
    return surrogate, is_low, is_high


def _kl_penalty(objective, logp, logp_ref, log_ratio):
    """The estimator of `objective.kl`; `k3_unbiased` is DeepSeek-V3.2's ratio * k3 (2512.02556)."""
    if objective.kl == "k3_unbiased":
        return jnp.exp(kl_lib.bound_log_ratio(log_ratio)) * kl_lib.k3(logp, logp_ref)
    return {"k1": kl_lib.k1, "k2": kl_lib.k2, "k3": kl_lib.k3}[objective.kl](logp, logp_ref)


def add_stats(left: Stats, right: Stats) -> Stats:
    """Statistics of two micro-batches together."""
    return {name: left[name] + right[name] for name in left}


def mean_stats(stats: Stats) -> Stats:
    """Turn added-up statistics into the numbers to log: `x_sum` becomes `x` = x_sum / tokens.

    `tokens` is a count and `policy_loss` a share of the step's loss; both are right once added up.
    """
    tokens = jnp.maximum(stats["tokens"], 1)
    return {
        name.removesuffix("_sum"): value / tokens if name.endswith("_sum") else value
        for name, value in stats.items()
    }
