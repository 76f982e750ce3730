"""Log-probabilities and entropy of chosen tokens without ever holding `[tokens, vocab]`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.mesh import is_split
from r1jax.ops.linear import multiply, sum_of_products

Data = TypeVar("Data")
Told = TypeVar("Told")

_PIECES = 16  # of a vocabulary, for sums on a CPU: 8 to 32 are fast (docs/LOG.md)


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

    Target c, an id below V, is predicted from place `sources[c]` of its row, place c unless given.
    Targets whose `mask` is False are not needed: they may come out as 0, and those of a row beyond
    its counted ones cost nothing, however many they are in this batch; nothing recompiles.

    `kept_BCM` names the tokens that a truncated sampler (top-k, top-p) could have drawn, -1 where
    there are fewer than M: the log-prob is then that of the policy renormalised over them, gradient
    included (Keep Sampling Mask, DeepSeek-V3.2 2512.02556). Where it names none the policy is
    whole. The entropy is always that of the whole policy.

    Targets go through the head about `chunk` at a time, in both directions, and the backward pass
    computes logits again: the largest array is `[chunk, V]`. The head's gradient is summed in
    float32 whatever the head's type. No gradient flows to the temperature.
    """
    chosen, order = _counted_first(hidden_BTD, targets_BC, mask_BC, sources_BC, kept_BCM, chunk)
    temperature = jnp.asarray(temperature, jnp.float32)
    found: Any = _chunked(
        chosen.columns, chosen.hidden, head_DV, chosen.words, temperature, chosen.chunks
    )
    back = jnp.argsort(order, axis=1)
    logp, entropy = (jnp.take_along_axis(x[:, : back.shape[1]], back, axis=1) for x in found)
    return logp, entropy


def scored_logprobs(
    hidden_BTD: Float[Array, "B T D"],
    head_DV: Float[Array, "D V"],
    targets_BC: Int[Array, "B C"],
    score: Callable[[Array, Array, Data], tuple[Array, Told]],
    data: Data,
    *,
    merge: Callable[[Told, Told], Told],
    turned: bool = False,
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int = 1024,
    mask_BC: Bool[Array, "B C"] | None = None,
    sources_BC: Int[Array, "B C"] | None = None,
    kept_BCM: Int[Array, "B C M"] | None = None,
) -> tuple[Float[Array, ""], Told]:
    """`score(*token_logprobs(...), data)` for a loss that is a sum over targets, with one pass of
    the head less: a chunk's gradient is computed while its logits are there.

    `score` is given some columns at a time, in any order, and those of `data` ([B, C] arrays), and
    returns their part of the loss and what else it tells, from 0 up, which `merge` puts together.
    Targets that do not count may be left out. Gradients flow to `hidden` and `head` only.
    `turned`: the head is an embedding's transpose, so chunks multiply by the embedding as it lies.
    """
    chosen, order = _counted_first(hidden_BTD, targets_BC, mask_BC, sources_BC, kept_BCM, chunk)
    columns, (targets, kept) = chosen.columns, chosen.words
    by_row = (len(targets), columns)
    extra = ((0, 0), (0, targets.shape[1] - order.shape[1]))
    data = jax.tree.map(lambda x: jnp.pad(jnp.take_along_axis(x, order, axis=1), extra), data)
    hidden, stored = jax.lax.stop_gradient((chosen.hidden, head_DV.T if turned else head_DV))
    temperature = jnp.asarray(temperature, jnp.float32)

    def head() -> Array:
        """Turned back in each chunk: before the loop that would be a copy."""
        return stored.T if turned else stored

    def read(number):
        take = functools.partial(_take, number=number, columns=columns)
        seen = _read(take(hidden), head(), take(targets), _maybe(take, kept), temperature)

        def scored(logp: Array, entropy: Array) -> tuple[Array, Told]:
            of_rows = jax.tree.map(lambda x: take(x).reshape(*by_row, *x.shape[2:]), data)
            return score(logp.reshape(by_row), entropy.reshape(by_row), of_rows)

        part, pull, told = jax.vjp(scored, seen.logp, seen.entropy, has_aux=True)
        return take(hidden), seen, pull(jnp.ones_like(part)), (part, told)

    def one(number, carry):
        d_hidden, d_head, loss, so_far = carry
        rows, seen, by, (part, told) = read(number)
        # Exponentials are made once more, not kept: on a CPU that is a tenth of the whole.
        logits, by = jax.lax.optimization_barrier((seen.logits, by))
        d_logits = _d_logits(seen._replace(logits=logits), by, temperature)
        d_rows, more = _products(d_logits, rows, head())
        d_hidden = _put(d_hidden, d_rows.astype(hidden.dtype), number, columns)
        d_head = more if d_head is None else d_head + more
        return d_hidden, d_head, loss + part, merge(so_far, told)

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: read(jnp.int32(0))[3])
    )
    d_hidden, no_head = jnp.zeros_like(hidden), jnp.zeros(head_DV.shape, jnp.float32)
    # The first chunk stands before the loop, so that its gradient of the head need not be added to
    # an array of zeros; often there is no other.
    first = jax.lax.cond(
        chosen.chunks > 0,
        lambda: one(jnp.int32(0), (d_hidden, None, *zeros)),
        lambda: (d_hidden, no_head, *zeros),
    )
    d_hidden, d_head, loss, told = jax.lax.fori_loop(1, chosen.chunks, one, first)
    inputs, gradients = (chosen.hidden, head_DV), (d_hidden, d_head.astype(head_DV.dtype))
    return _with_gradient(loss, inputs, gradients), told


@jax.custom_vjp
def _with_gradient(value, inputs, gradients):
    """`value`, a number, whose gradients by `inputs` are known."""
    return value


_with_gradient.defvjp(
    lambda value, _, gradients: (value, gradients),
    lambda gradients, by: (None, jax.tree.map(lambda x: by.astype(x.dtype) * x, gradients), None),
)


class _Chosen(NamedTuple):
    """The targets that count before the others in each row, and what they are predicted from."""

    hidden: Array  # [B, C, D], C a multiple of `columns`
    words: tuple[Array, Array | None]  # targets [B, C], and what was kept beside them [B, C, M]
    columns: int  # of a chunk
    chunks: Array  # so many have any that count


def _counted_first(hidden_BTD, targets_BC, mask_BC, sources_BC, kept_BCM, chunk):
    """So that the loop over chunks can end early. (`_Chosen`, the order of each row.)"""
    rows, places = targets_BC.shape
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: must be 1 or more")
    if sources_BC is None:
        own = jnp.arange(places, dtype=jnp.int32)
        sources_BC = jnp.broadcast_to(own[None], targets_BC.shape)
    if mask_BC is None:
        mask_BC = jnp.ones(targets_BC.shape, bool)
    order = jnp.argsort(~mask_BC, axis=1, stable=True)
    needed = jnp.max(jnp.sum(mask_BC, axis=1), initial=0)
    # No rows, or no places, are still a chunk: of nothing that counts.
    columns = max(1, min(places, chunk // max(rows, 1)))
    extra = ((0, 0), (0, -places % columns if places else columns))
    sources, targets = (
        jnp.pad(jnp.take_along_axis(x, order, axis=1), extra) for x in (sources_BC, targets_BC)
    )
    hidden = jnp.take_along_axis(hidden_BTD, sources[..., None], axis=1)
    if kept_BCM is not None:
        kept_BCM = jnp.take_along_axis(kept_BCM, order[..., None], axis=1)
        kept_BCM = jnp.pad(kept_BCM, (*extra, (0, 0)), constant_values=-1)
    return _Chosen(hidden, (targets, kept_BCM), columns, -(-needed // columns)), order


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(columns, hidden, head, words, temperature, chunks):
    """(log-probs, entropies), [B, C], of the first `chunks` times `columns` targets of each row.

    `words` are the targets and what was kept beside them.
    """
    return _forward(columns, hidden, head, words, temperature, chunks)[0]


def _forward(columns, hidden, head, words, temperature, chunks):
    targets, kept = words

    def one(number, carry):
        take = functools.partial(_take, number=number, columns=columns)
        seen = _read(take(hidden), head, take(targets), _maybe(take, kept), temperature)
        new = (seen.logp, seen.entropy, seen.log_sum, seen.kept_sum)
        return tuple(_put(x, y, number, columns) for x, y in zip(carry, new, strict=True))

    zeros = jnp.zeros(targets.shape, jnp.float32)
    logp, entropy, *sums = jax.lax.fori_loop(0, chunks, one, (zeros, zeros, zeros, zeros))
    return (logp, entropy), (hidden, head, words, temperature, chunks, logp, entropy, *sums)


def _backward(columns, saved, grads):
    hidden, head, (targets, kept), temperature, chunks, *found = saved

    def one(number, carry):
        d_hidden, d_head = carry
        take = functools.partial(_take, number=number, columns=columns)
        logits = compute_logits(take(hidden), head) / temperature
        is_target, allowed = _marks(logits, take(targets), _maybe(take, kept))
        seen = _Seen(logits, is_target, allowed, *map(take, found))
        d_logits = _d_logits(seen, tuple(map(take, grads)), temperature)
        part, more = _products(d_logits, take(hidden), head)
        return _put(d_hidden, part, number, columns), d_head + more

    start = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    d_hidden, d_head = jax.lax.fori_loop(0, chunks, one, start)
    return d_hidden.astype(hidden.dtype), d_head.astype(head.dtype), None, None, None


_chunked.defvjp(_forward, _backward)


class _Seen(NamedTuple):
    """What there is to know of some columns while their logits are there. Rows and columns are one
    axis, N: XLA:CPU takes seven times as long to sum logits with a first axis of one row."""

    logits: Array  # [N, V], as the two that follow
    is_target: Array
    allowed: Array | None  # what a truncated sampler kept; None = everything
    logp: Array  # [N], as all that follow
    entropy: Array
    log_sum: Array
    kept_sum: Array  # over what is allowed


def _read(hidden, head, targets, kept, temperature) -> _Seen:
    logits = compute_logits(hidden, head) / temperature
    is_target, allowed = _marks(logits, targets, kept)
    top = jnp.max(logits, axis=-1)
    top = jnp.where(jnp.isfinite(top), top, 0)
    total, weighted = _sums(logits, top)
    log_sum = kept_sum = jnp.log(total) + top
    if allowed is not None:
        kept_sum = _sum_over_kept(logits, allowed, kept, log_sum)
    logp = _at_targets(logits, is_target, targets) - kept_sum
    # Both terms are from 0 up, so that nothing cancels where one logit towers over the rest.
    entropy = jnp.log(total) - weighted / total
    return _Seen(logits, is_target, allowed, logp, entropy, log_sum, kept_sum)


def _sums(logits_NV: Float[Array, "N V"], top_N: Float[Array, " N"]) -> tuple[Array, Array]:
    """(sum of exp x, sum of x exp x) of x = logits - top, [N]."""
    vocabulary = logits_NV.shape[-1]

    def apart(logits_NV: Array, top_N: Array) -> tuple[Array, Array]:
        total = jnp.sum(jnp.exp(logits_NV - top_N[:, None]), axis=-1)
        # Exponentials are made once more, not kept: no array beside the logits is made.
        logits_NV, top_N = jax.lax.optimization_barrier((logits_NV, top_N))
        below = logits_NV - top_N[:, None]
        return total, jnp.sum(jnp.exp(below) * below, axis=-1)

    def together(logits_NV: Array, top_N: Array) -> tuple[Array, Array]:
        below = (logits_NV - top_N[:, None]).reshape(len(top_N), _PIECES, vocabulary // _PIECES)
        terms, zero = jnp.exp(below), np.zeros((), below.dtype)
        sums = jax.lax.reduce((terms, terms * below), (zero, zero), _add_both, (1,))
        return jnp.sum(sums[0], axis=-1), jnp.sum(sums[1], axis=-1)

    # XLA:CPU makes one loop of two sums at once, a fast one over few pieces. Sums apart are twice
    # the exponentials, which it writes down where the vocabulary is wide.
    if is_split() or vocabulary % _PIECES:
        return apart(logits_NV, top_N)
    return jax.lax.platform_dependent(logits_NV, top_N, cpu=together, default=apart)


def _add_both(sums: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    return sums[0] + more[0], sums[1] + more[1]


def _at_targets(logits, is_target, targets) -> Array:
    """The logits of the targets, [N]."""

    def summed(logits, is_target, _):
        return jnp.sum(jnp.where(is_target, logits, 0), axis=-1)

    def gathered(logits, _, targets):
        # XLA:CPU would write down all terms of that sum, a sixth of the head's other work. Like the
        # sum it is 0 where a target is no word.
        at = logits.at[np.arange(len(targets)), targets]
        return at.get(mode="fill", fill_value=0, wrap_negative_indices=False)

    # A gather would collect a vocabulary split over devices; elsewhere the sum is made in passing.
    if is_split():
        return summed(logits, is_target, targets)
    return jax.lax.platform_dependent(logits, is_target, targets, cpu=gathered, default=summed)


def _sum_over_kept(logits, allowed, kept, log_sum) -> Array:
    """The log of the sum of what was kept, [N]; of everything where nothing is named."""

    def summed(logits, allowed, *_):
        return jax.nn.logsumexp(logits, axis=-1, where=allowed)

    def gathered(logits, _, kept, log_sum):
        # XLA:CPU would write down three arrays as large as the logits for that sum.
        words = jnp.sort(kept, axis=-1)
        at = logits.at[np.arange(len(words))[:, None], words]
        named = at.get(mode="fill", fill_value=-jnp.inf, wrap_negative_indices=False)
        again = jnp.diff(words, axis=-1, prepend=-2) == 0  # a word counts once
        total = jax.nn.logsumexp(named, axis=-1, where=~again)
        return jnp.where(jnp.all(kept < 0, axis=-1), log_sum, total)

    kept = kept.astype(jnp.int32)
    if is_split():
        return summed(logits, allowed)
    return jax.lax.platform_dependent(logits, allowed, kept, log_sum, cpu=gathered, default=summed)


def _d_logits(seen: _Seen, by: tuple[Array, ...], temperature) -> Array:
    """d logp / d logits = 1[target] - p over the kept;  d entropy / d logits = -p (log p + H)."""
    by_logp, by_entropy = (x[..., None] for x in by)
    logs = seen.logits - seen.log_sum[..., None]
    probs = jnp.exp(logs)
    d_logits = -probs * by_entropy * (logs + seen.entropy[..., None])
    if seen.allowed is not None:
        probs = jnp.where(seen.allowed, jnp.exp(seen.logits - seen.kept_sum[..., None]), 0)
    d_logits += jnp.where(seen.is_target, by_logp, 0) - probs * by_logp
    return d_logits / temperature


def _products(d_logits, hidden, head) -> tuple[Array, Array]:
    """(d hidden, d head) in float32."""
    exact = jax.lax.Precision.HIGHEST
    d_hidden = jnp.matmul(d_logits, head.astype(jnp.float32).T, precision=exact)
    return d_hidden, sum_of_products(hidden.astype(jnp.float32), d_logits, exact)


def _marks(logits, targets, kept) -> tuple[Array, Array | None]:
    """Which words are the targets, and which were kept."""
    words = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    is_target = words == targets[..., None].astype(jnp.int32)
    return is_target, None if kept is None else _allowed(logits, kept.astype(jnp.int32))


def _allowed(logits, kept) -> Array:
    """True at the words that were kept; everywhere where none were."""
    place = np.arange(len(kept))[:, None]
    outside = jnp.where(kept < 0, logits.shape[-1], kept)
    none = jnp.all(kept < 0, axis=-1, keepdims=True)
    return jnp.broadcast_to(none, logits.shape).at[place, outside].set(True, mode="drop")


def _maybe(function, value):
    return None if value is None else function(value)


def _take(x: Array, number: ArrayLike, columns: int) -> Array:
    """Some columns of [B, C, ...], as [B * columns, ...]."""
    taken = jax.lax.dynamic_slice_in_dim(x, number * columns, columns, axis=1)
    return taken.reshape(-1, *x.shape[2:])


def _put(x: Array, new: Array, number: ArrayLike, columns: int) -> Array:
    new = new.reshape(len(x), columns, *x.shape[2:])
    return jax.lax.dynamic_update_slice_in_dim(x, new, number * columns, axis=1)


def compute_logits(
    hidden: Float[Array, "*rows D"], head_DV: Float[Array, "D V"]
) -> Float[Array, "*rows V"]:
    """The language-model head, always in float32.

    A bf16 head is the largest known source of disagreement between a sampler and a trainer.
    """
    rows = hidden.astype(jnp.float32).reshape(-1, hidden.shape[-1])
    logits = multiply(rows, head_DV.astype(jnp.float32), jax.lax.Precision.HIGHEST)
    return logits.reshape(*hidden.shape[:-1], head_DV.shape[-1])
