"""Log-probabilities and entropy of chosen tokens without ever holding `[tokens, vocab]`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    kept_BCM: Int[Array, "B C M"] | None = None,
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """(log-prob of each target, entropy) of softmax(hidden @ head / temperature), in float32.

    Target c is predicted from place `sources[c]` of its row, place c unless given. Targets whose
    `mask` is False are not needed: they may come out as 0, and those of a row beyond its counted
    ones cost nothing, however many they are in this batch; nothing recompiles.

    `kept_BCM` names the tokens that a truncated sampler (top-k, top-p) could have drawn, -1 where
    there are fewer than M: the log-prob is then that of the policy renormalised over them, gradient
    included (Keep Sampling Mask, DeepSeek-V3.2 2512.02556). Where it names none the policy is
    whole. The entropy is always that of the whole policy.

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
    if kept_BCM is not None:
        kept_BCM = jnp.take_along_axis(kept_BCM, order[..., None], axis=1)
        kept_BCM = jnp.pad(kept_BCM, (*extra, (0, 0)), constant_values=-1)
    chunks = -(-needed // columns)
    temperature = jnp.asarray(temperature, jnp.float32)
    found: Any = _chunked(columns, hidden, head_DV, (targets, kept_BCM), temperature, chunks)
    back = jnp.argsort(order, axis=1)
    logp, entropy = (jnp.take_along_axis(x[:, :places], back, axis=1) for x in found)
    return logp, entropy


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(columns, hidden, head, words, temperature, chunks):
    """(log-probs, entropies), [B, C], of the first `chunks` times `columns` targets of each row.

    `words` are the targets and what was kept beside them.
    """
    return _forward(columns, hidden, head, words, temperature, chunks)[0]


def _forward(columns, hidden, head, words, temperature, chunks):
    targets, kept = words

    def one(number, carry):
        logits = _logits(columns, hidden, head, temperature, number)
        log_sum = kept_sum = jax.nn.logsumexp(logits, axis=-1)
        logs = logits - log_sum[..., None]
        if kept is not None:
            allowed = _allowed(columns, kept, logits, number)
            kept_sum = jax.nn.logsumexp(logits, axis=-1, where=allowed)
        # A sum over one term, not a gather: that would collect a vocabulary split over devices.
        is_target = _is_target(columns, targets, logits, number)
        chosen = jnp.sum(jnp.where(is_target, logits, 0), axis=-1) - kept_sum
        # Terms of one sign, so that nothing cancels where one logit towers over the rest.
        entropy = -jnp.sum(jnp.exp(logs) * logs, axis=-1)
        new = (chosen, entropy, log_sum, kept_sum)
        return tuple(_put(x, y, number, columns) for x, y in zip(carry, new, strict=True))

    zeros = jnp.zeros(targets.shape, jnp.float32)
    logp, entropy, *sums = jax.lax.fori_loop(0, chunks, one, (zeros, zeros, zeros, zeros))
    return (logp, entropy), (hidden, head, words, temperature, chunks, entropy, *sums)


def _backward(columns, saved, grads):
    """d logp / d logits = 1[target] - p over the kept;  d entropy / d logits = -p (log p + H)."""
    hidden, head, (targets, kept), temperature, chunks, entropy, log_sum, kept_sum = saved
    by_logp, by_entropy = grads

    def one(number, carry):
        d_hidden, d_head = carry
        take = functools.partial(_take, number=number, columns=columns)
        logits = _logits(columns, hidden, head, temperature, number)
        logs = logits - take(log_sum)[..., None]
        by_chosen = take(by_logp)[..., None]
        d_logits = -jnp.exp(logs) * take(by_entropy)[..., None] * (logs + take(entropy)[..., None])
        probs = jnp.exp(logs)
        if kept is not None:
            allowed = _allowed(columns, kept, logits, number)
            probs = jnp.where(allowed, jnp.exp(logits - take(kept_sum)[..., None]), 0)
        is_target = _is_target(columns, targets, logits, number)
        d_logits += jnp.where(is_target, by_chosen, 0) - probs * by_chosen
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


def _words(logits) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def _is_target(columns, targets, logits, number) -> Array:
    return _words(logits) == _take(targets, number, columns)[..., None].astype(jnp.int32)


def _allowed(columns, kept, logits, number) -> Array:
    """True at the words that were kept; everywhere where none were."""
    kept = _take(kept, number, columns).astype(jnp.int32)
    row, column, _ = np.ogrid[tuple(slice(size) for size in kept.shape)]
    outside = jnp.where(kept < 0, logits.shape[-1], kept)
    none = jnp.all(kept < 0, axis=-1, keepdims=True)
    return jnp.broadcast_to(none, logits.shape).at[row, column, outside].set(True, mode="drop")


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
