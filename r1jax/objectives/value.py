"""Losses of a critic that predicts the return at every token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1jax.objectives.reductions import Real, Scalar, masked_mean, require_shape


def clipped_value_loss(
    values: Float[Array, "B T"],
    returns: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    values_old: Float[Array, "B T"] | None = None,
    clip: Real | None = None,
    denominator: Scalar | None = None,
    weights: Float[Array, "B T"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean over counted tokens of 1/2 max((V - R)^2, (clip(V, V_old +- clip) - R)^2).

    PPO's value loss (1707.06347 and its reference code); without `clip` plain squared error, as for
    value pre-training. For micro-batches: `denominator`, the step's counted tokens, or each token's
    weight in the step. Statistics are sums: `vf_clipfrac_sum`, `vf_error_sum` (squared error) and
    `tokens`.
    """
    if weights is not None and denominator is not None:
        raise ValueError("give weights or denominator: weights are divided already")
    arrays = {"returns": returns, "mask": mask, "values_old": values_old, "weights": weights}
    require_shape(values.shape, **arrays)
    values, returns = jnp.where(mask, values, 0), jnp.where(mask, returns, 0)
    errors = jnp.square(values - returns)
    losses, is_clipped = errors, jnp.zeros(mask.shape, bool)
    if clip is not None:
        if values_old is None:
            raise ValueError("clip needs values_old")
        values_old = jnp.where(mask, values_old, 0)
        bounded = jnp.clip(values, values_old - clip, values_old + clip)
        is_clipped = jnp.square(bounded - returns) > errors
        losses = jnp.where(is_clipped, jnp.square(bounded - returns), errors)
    stats = {
        "vf_clipfrac_sum": is_clipped.sum().astype(values.dtype),
        "vf_error_sum": errors.sum(),
        "tokens": mask.sum().astype(values.dtype),
    }
    if weights is not None:
        return 0.5 * jnp.where(mask, weights * losses, 0).sum(), stats
    return 0.5 * masked_mean(losses, mask, denominator), stats
