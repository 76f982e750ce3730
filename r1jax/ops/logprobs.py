"""Log-probabilities and entropy of chosen tokens without ever holding `[tokens, vocab]`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int


def token_logprobs(
    hidden_BTD: Float[Array, "B T D"],
    head_DV: Float[Array, "D V"],
    targets_BC: Int[Array, "B C"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int = 1024,
    mask_BC: Bool[Array, "B C"] | None = None,
    sources_BC: Int[Array, "B C"] | None = None,
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """(log-prob of each target, entropy) of softmax(hidden @ head / temperature), in float32.

    Target c is predicted from place `sources[c]` of its row, place c unless given. Targets whose
    `mask` is False are not needed: they may come out as 0, and those of a row beyond its counted
    ones cost nothing, however many they are in this batch; nothing recompiles.

    Targets go through the head about `chunk` at a time, in both directions, and the backward pass
    computes logits again: the largest array is `[chunk, V]`. The head's gradient is summed in
    float32 whatever the head's type. No gradient flows to the temperature.
    """
    rows, places = targets_BC.shape
    if sources_BC is None:
        own = jnp.arange(places, dtype=jnp.int32)
        sources_BC = jnp.broadcast_to(own[None], targets_BC.shape)
    if mask_BC is None:
        mask_BC = jnp.ones(targets_BC.shape, bool)
    # Counted targets first, so that the loop over chunks can end early.
    order = jnp.argsort(~mask_BC, axis=1, stable=True)
    needed = jnp.max(jnp.sum(mask_BC, axis=1), initial=0)
    columns = min(places, max(1, chunk // rows))
    extra = ((0, 0), (0, -places % columns))
    sources, targets = (
        jnp.pad(jnp.take_along_axis(x, order, axis=1), extra) for x in (sources_BC, targets_BC)
    )
    hidden = jnp.take_along_axis(hidden_BTD, sources[..., None], axis=1)
    chunks = -(-needed // columns)
    temperature = jnp.asarray(temperature, jnp.float32)
    found: Any = _chunked(columns, hidden, head_DV, targets, temperature, chunks)
    back = jnp.argsort(order, axis=1)
    logp, entropy = (jnp.take_along_axis(x[:, :places], back, axis=1) for x in found)
    return logp, entropy


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(columns, hidden, head, targets, temperature, chunks):
    """(log-probs, entropies), [B, C], of the first `chunks` times `columns` targets of each row."""
    return _forward(columns, hidden, head, targets, temperature, chunks)[0]


def _forward(columns, hidden, head, targets, temperature, chunks):
    def one(number, carry):
        logits = _logits(columns, hidden, head, temperature, number)
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        logs = logits - log_sum[..., None]
        # A sum over one term, not a gather: that would collect a vocabulary split over devices.
        is_target = _is_target(columns, targets, logits, number)
        chosen = jnp.sum(jnp.where(is_target, logs, 0), axis=-1)
        # Terms of one sign, so that nothing cancels where one logit towers over the rest.
        entropy = -jnp.sum(jnp.exp(logs) * logs, axis=-1)
        new = (chosen, entropy, log_sum)
        return tuple(_put(x, y, number, columns) for x, y in zip(carry, new, strict=True))

    zeros = jnp.zeros(targets.shape, jnp.float32)
    logp, entropy, log_sum = jax.lax.fori_loop(0, chunks, one, (zeros, zeros, zeros))
    saved = (hidden, head, targets, temperature, chunks, entropy, log_sum)
    return (logp, entropy), saved


def _backward(columns, saved, grads):
    """d logp / d logits = 1[target] - p;  d entropy / d logits = -p (log p + entropy)."""
    hidden, head, targets, temperature, chunks, entropy, log_sum = saved
    by_logp, by_entropy = grads

    def one(number, carry):
        d_hidden, d_head = carry
        take = functools.partial(_take, number=number, columns=columns)
        logits = _logits(columns, hidden, head, temperature, number)
        logs = logits - take(log_sum)[..., None]
        is_target = _is_target(columns, targets, logits, number)
        by_logs = take(by_logp)[..., None] + take(by_entropy)[..., None] * (
            logs + take(entropy)[..., None]
        )
        d_logits = jnp.where(is_target, take(by_logp)[..., None], 0) - jnp.exp(logs) * by_logs
        d_logits = (d_logits / temperature).reshape(-1, d_logits.shape[-1])
        part = _product(d_logits, head.astype(jnp.float32).T).reshape(take(hidden).shape)
        rows = take(hidden).astype(jnp.float32).reshape(-1, hidden.shape[-1])
        d_head = d_head + _product(rows.T, d_logits)
        return _put(d_hidden, part, number, columns), d_head

    start = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    d_hidden, d_head = jax.lax.fori_loop(0, chunks, one, start)
    return d_hidden.astype(hidden.dtype), d_head.astype(head.dtype), None, None, None


_chunked.defvjp(_forward, _backward)


def _logits(columns, hidden, head, temperature, number) -> Array:
    return compute_logits(_take(hidden, number, columns), head) / temperature


def _is_target(columns, targets, logits, number) -> Array:
    words = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return words == _take(targets, number, columns)[..., None]


def _take(x: Array, number: ArrayLike, columns: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, number * columns, columns, axis=1)


def _put(x: Array, new: Array, number: ArrayLike, columns: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x, new, number * columns, axis=1)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def compute_logits(
    hidden: Float[Array, "*rows D"], head_DV: Float[Array, "D V"]
) -> Float[Array, "*rows V"]:
    """The language-model head, always in float32.

    A bf16 head is the largest known source of disagreement between a sampler and a trainer.
    """
    rows = hidden.astype(jnp.float32).reshape(-1, hidden.shape[-1])
    logits = _product(rows, head_DV.astype(jnp.float32))
    return logits.reshape(*hidden.shape[:-1], head_DV.shape[-1])
