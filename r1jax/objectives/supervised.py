"""Supervised token losses."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1jax.objectives.kl import bound_logp
from r1jax.objectives.reductions import Real, Scalar, masked_mean, require_shape


def token_loss(
    logp: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    denominator: Scalar | None = None,
    log_z: Float[Array, "B T"] | None = None,
    z_coef: Real = 0.0,
) -> Float[Array, ""]:
    """Negative log-likelihood: sum over counted tokens of (-logp + z_coef log_z^2) / denominator.

    The denominator is the batch's own number of counted tokens; given the number of the whole
    optimizer step, the losses of its micro-batches add up to the loss of the whole. `log_z` is the
    log of the softmax's normaliser, which the z-loss (PaLM 2204.02311) holds near 0.

    A log-prob below -10,000 (-inf) is read as the constant -10,000.

    On the mask of correct samples this is VAPO's positive-example loss (2504.05118).
    """
    require_shape(logp.shape, mask=mask, log_z=log_z)
    per_token = -bound_logp(logp)
    if z_coef != 0:
        if log_z is None:
            raise ValueError("z_coef needs log_z")
        per_token += z_coef * jnp.square(log_z)
    return masked_mean(per_token, mask, denominator)
