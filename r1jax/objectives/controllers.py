"""Coefficients that follow a measurement from one optimizer step to the next.

    coef = controllers.entropy_coefficient(coef, metrics["entropy"], target=0.2)

They are for the host or for inside a jitted step; put the result into the objective with
`dataclasses.replace(objective, entropy_coef=coef)`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from r1jax.objectives.reductions import Real, Scalar


def entropy_coefficient(
    coef: Scalar,
    entropy: Scalar,
    *,
    target: Real,
    delta: Real = 0.005,
    low: Real = 0.0,
    high: Real = 1.0,
) -> Float[Array, ""]:
    """Up by delta while the step's mean entropy is at or below the target, down by delta above it.

    Skywork-OR1 (2505.22312, target 0.2), with TRL's step and bounds. The bonus itself acts only at
    or below the target: the coefficient to apply is `coef * (entropy <= target)`.
    """
    step = jnp.where(jnp.asarray(entropy) <= target, delta, -delta)
    return jnp.clip(coef + step, low, high)


def kl_coefficient(
    coef: Scalar, kl: Scalar, *, target: Real, horizon: Real, samples: int, limit: Real = 0.2
) -> Float[Array, ""]:
    """coef * (1 + clip(kl / target - 1, -limit, limit) * samples / horizon) (1909.08593, 2.2)."""
    error = jnp.clip(jnp.asarray(kl) / target - 1, -limit, limit)
    return coef * (1 + error * samples / horizon)
