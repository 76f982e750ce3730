"""Supervised token losses."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1jax.objectives.reductions import masked_mean


def token_loss(
    logp: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    denominator: float | Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Negative log-likelihood of the counted tokens: -sum(mask * logp) / denominator.

    Without a denominator the batch's own number of counted tokens; with the number of counted
    tokens of the whole optimizer step, the losses of its micro-batches add up to the loss of
    the whole.
    """
    if denominator is None:
        return masked_mean(-logp, mask)
    return jnp.where(mask, -logp, 0).sum() / denominator
