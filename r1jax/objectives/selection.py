"""Which tokens learn: masks to multiply the advantages with, or to hang a penalty on.

They compare tokens with each other, so they must see all tokens of an optimizer step at once: use
the log-probs and entropies of the sampler or of an old-policy pass, before the step is split. All
of them are data; no gradient flows.

    advantages = advantages * selection.high_entropy(entropy, mask, share=0.2)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from r1jax.objectives.reductions import Real, masked_mean


def high_entropy(
    entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], *, share: Real
) -> Bool[Array, "B T"]:
    """True at the counted tokens whose entropy is in the top `share` (the 80/20 rule, 2506.01939).

    The threshold is the (1 - share) quantile of the counted tokens' entropies, with linear
    interpolation, and the tokens at or above it are taken, as in TRL.
    """
    count = mask.sum()
    ascending = jnp.sort(jnp.where(mask, entropy, jnp.inf).reshape(-1))
    position = (1 - share) * jnp.maximum(count - 1, 0).astype(entropy.dtype)
    below = jnp.floor(position).astype("int32")
    fraction = position - below.astype(entropy.dtype)
    above = jnp.minimum(below + 1, jnp.maximum(count - 1, 0).astype("int32"))
    low, high = ascending[below], ascending[above]
    threshold = jnp.where(fraction > 0, low + fraction * (high - low), low)
    return mask & (entropy >= threshold)


def covariances(
    logp: Float[Array, "B T"], advantages: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """(log pi - mean log pi) (A - mean A): what drives the entropy down (2505.22617)."""
    logp, advantages = jnp.where(mask, logp, 0), jnp.where(mask, advantages, 0)
    product = (logp - masked_mean(logp, mask)) * (advantages - masked_mean(advantages, mask))
    return jax.lax.stop_gradient(jnp.where(mask, product, 0))


def clip_cov(
    key: PRNGKeyArray,
    covariance: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    share: Real = 2e-4,
    low: Real = 1.0,
    high: Real = 5.0,
) -> Bool[Array, "B T"]:
    """Clip-Cov (2505.22617): False at a random `share` of tokens with low < covariance < high.

    At least one token is left out if any qualifies.
    """
    qualifies = mask & (covariance > low) & (covariance < high)
    lottery = jnp.where(qualifies, jax.random.uniform(key, mask.shape, covariance.dtype), 2.0)
    return mask & ~(qualifies & _is_among_smallest(lottery, _share_of(mask, share)))


def kl_cov(
    covariance: Float[Array, "B T"], mask: Bool[Array, "B T"], *, share: Real = 2e-4
) -> Bool[Array, "B T"]:
    """KL-Cov (2505.22617): True at the top `share` of tokens by covariance, at least one.

    The loss there gains coef * |log pi / pi_old|: add
    `coef * (weights * where(chosen, abs(logp - logp_old), 0)).sum()` to `policy_loss`.
    """
    ranked = jnp.where(mask, -covariance, jnp.inf)
    return mask & _is_among_smallest(ranked, _share_of(mask, share))


def _share_of(mask, share):
    """`share` of the number of counted tokens, rounded down, at least 1."""
    return jnp.maximum((share * mask.sum().astype("float32")).astype("int32"), 1)


def _is_among_smallest(values_BT, count):
    ranks = jnp.argsort(jnp.argsort(values_BT.reshape(-1)))
    return (ranks < count.astype(ranks.dtype)).reshape(values_BT.shape)
