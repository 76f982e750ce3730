"""Log-probabilities and entropy of chosen tokens without ever holding `[tokens, vocab]`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_logprobs(
    hidden_BTD: Float[Array, "B T D"],
    head_DV: Float[Array, "D V"],
    targets_BT: Int[Array, "B T"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int = 1024,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """(log-prob of each target, entropy) of softmax(hidden @ head / temperature), in float32.

    Tokens go through the head `chunk` at a time and logits are recomputed in the backward pass,
    so the largest logits array is `[chunk, V]` in both directions.
    """
    rows, length, width = hidden_BTD.shape
    total = rows * length
    chunk = min(chunk, total)
    chunks = -(-total // chunk)
    hidden = hidden_BTD.reshape(total, width)
    targets = targets_BT.reshape(total)
    if chunks * chunk != total:
        hidden = jnp.pad(hidden, ((0, chunks * chunk - total), (0, 0)))
        targets = jnp.pad(targets, (0, chunks * chunk - total))

    @jax.checkpoint
    def one(args: tuple[Array, Array]) -> tuple[Array, Array]:
        return _chunk_logprobs(*args, head_DV, temperature)

    logp, entropy = jax.lax.map(
        one, (hidden.reshape(chunks, chunk, width), targets.reshape(chunks, chunk))
    )
    shape = (rows, length)
    return logp.reshape(-1)[:total].reshape(shape), entropy.reshape(-1)[:total].reshape(shape)


def _chunk_logprobs(
    hidden_CD: Array, targets_C: Array, head_DV: Array, temperature: float | Array
) -> tuple[Array, Array]:
    logits = compute_logits(hidden_CD, head_DV) / jnp.asarray(temperature, jnp.float32)
    logp_CV = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logp_CV, targets_C[:, None], axis=-1)[:, 0]
    # Terms of one sign, so that nothing cancels where one logit towers over the rest.
    return chosen, -jnp.sum(jnp.exp(logp_CV) * logp_CV, axis=-1)


def compute_logits(
    hidden: Float[Array, "*rows D"], head_DV: Float[Array, "D V"]
) -> Float[Array, "*rows V"]:
    """The language-model head, always in float32.

    A bf16 head is the largest known source of disagreement between a sampler and a trainer.
    """
    return jnp.matmul(
        hidden.astype(jnp.float32), head_DV.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
