"""Estimators of KL(policy || reference) from the log-probs of sampled tokens.

With d = log pi_ref - log pi of a token sampled from the policy (Schulman, "Approximating KL
divergence", 2020). As *values* k1 and k3 are unbiased. As *losses* they differ: the expected
gradient of k1 is zero, of k2 that of KL(policy || reference), of k3 that of KL(reference ||
policy); k3 times the importance ratio has that of KL(policy || reference) (DeepSeek-V3.2).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_RATIO_BOUND = 20.0
LOGP_FLOOR = -1e4


def bound_logp(logp: Float[Array, "*shape"], floor: float = LOGP_FLOOR) -> Float[Array, "*shape"]:
    """Read a log-prob below the floor (-inf: outside a truncated sampler's support) as the floor.

    No gradient flows from below.
    """
    return jnp.where(logp < floor, floor, logp)


def bound_log_ratio(log_ratio: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Hold a log-ratio within +-20 before it is exponentiated; no gradient flows from beyond.

    A ratio of e^20 = 4.9e8 is a broken sample in any precision; without the bound fp32
    overflows at e^88.
    """
    bounded = jnp.where(log_ratio > LOG_RATIO_BOUND, LOG_RATIO_BOUND, log_ratio)
    return jnp.where(bounded < -LOG_RATIO_BOUND, -LOG_RATIO_BOUND, bounded)


def k1(logp: Float[Array, "*shape"], logp_ref: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """-d: unbiased, high variance, of either sign. For rewards, not for losses."""
    return logp - logp_ref


def k2(logp: Float[Array, "*shape"], logp_ref: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """d^2 / 2: biased, low variance; on-policy its gradient is that of the reverse KL."""
    return 0.5 * jnp.square(logp_ref - logp)


def k3(logp: Float[Array, "*shape"], logp_ref: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """e^d - d - 1 >= 0: DeepSeekMath's eq. 4. d is held within +-20."""
    d = bound_log_ratio(logp_ref - logp)
    return jnp.expm1(d) - d
