"""The jitted part of a rollout: prompts are read once into a bank, and one `while_loop` turns
slots into responses, filling a slot again from the bank as soon as it falls idle.

    read_prompts   prompts into the Bank, and the first token of every response
    decode         slots forward, until the chunk is over or nothing is left to do
    give_room, keep_busy   more room per slot, fewer slots: between two chunks
    fetch          finished responses, to be read while the next chunk runs

A *unit* is U neighbouring slots whose responses answer the same prompt and share its cache. With
U = 1 every slot has a copy of its own, and is filled again alone.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from r1jax.mesh import constrain
from r1jax.models import transformer
from r1jax.models.config import ModelConfig
from r1jax.ops.kv_cache import Caches, LayerCache, copy_row, grow, take_rows
from r1jax.ops.logprobs import compute_logits
from r1jax.ops.sampling import SamplingArrays, sample, uniforms

IDLE = -1  # a slot's row when it has none
GOING, STOPPED, CUT = 0, 1, 2  # why a response ended: not yet, by a stop id, by its limit


class Outputs(NamedTuple):
    """What came out so far, by row: response r, wherever it was decoded."""

    tokens: Int[Array, "R S"]
    logp: Float[Array, "R S"]
    lengths: Int[Array, " R"]
    endings: Int[Array, " R"]  # GOING, STOPPED or CUT


class Waiting(NamedTuple):
    """Responses that wait for a slot, [P, G]: neighbours share a prompt."""

    rows: Int[Array, "P G"]  # where they come out; past the last row = nobody
    limits: Int[Array, "P G"]  # tokens they may have
    starts: Int[Array, "P G"]  # tokens they had before this rollout: their randomness goes on there
    keys: UInt32[Array, "P G 2"]


class Bank(NamedTuple):
    """Prompts that have been read, and the responses to them that wait."""

    caches: Caches  # [P, K, S, H]
    lengths: Int[Array, " P"]
    waiting: Waiting
    first: Int[Array, "P G"]  # each response's first token


class Slots(NamedTuple):
    """B responses in the making. `token` is sampled and not yet read."""

    rows: Int[Array, " B"]  # IDLE where there is none
    tokens: Int[Array, " B"]
    filled: Int[Array, " B"]  # tokens of the response in the suffix
    prefix_lengths: Int[Array, " B"]
    limits: Int[Array, " B"]
    starts: Int[Array, " B"]
    keys: UInt32[Array, "B 2"]
    prefix: Caches  # [B / U, K, S, H]
    suffix: Caches  # [B, K, S, H]


class Loop(NamedTuple):
    slots: Slots
    outputs: Outputs
    next_unit: Int[Array, ""]  # of the bank
    steps: Int[Array, ""]  # of decoding, all chunks together
    busy_steps: Float[Array, ""]  # slots that had a response, summed over steps


class Report(NamedTuple):
    """What the host looks at between chunks, while the next one is already running."""

    endings: Int[Array, " R"]
    next_unit: Int[Array, ""]
    busy_units: Int[Array, ""]
    most_filled: Int[Array, ""]
    steps: Int[Array, ""]
    busy_steps: Float[Array, ""]


def pinned(tree: Any) -> Any:
    """Caches split over the mesh, all else whole on every device: one layout between programs."""

    def pin(leaf: Any) -> Any:
        if isinstance(leaf, LayerCache):
            return transformer.pinned([leaf])[0]
        return constrain(leaf, *[None] * leaf.ndim)

    return jax.tree.map(pin, tree, is_leaf=lambda leaf: isinstance(leaf, LayerCache))


@functools.partial(jax.jit, static_argnums=0)
def prepare_params(config: ModelConfig, params: Any) -> dict[str, Any]:
    return transformer.prepare_decode_params(config, params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty_bank(config: ModelConfig, prompts: int, samples_per_prompt: int, room: int) -> Bank:
    zeros = jnp.zeros((prompts, samples_per_prompt), jnp.int32)
    keys = jnp.zeros((prompts, samples_per_prompt, 2), jnp.uint32)
    caches = transformer.empty_caches(config, prompts, room)
    return pinned(Bank(caches, zeros[:, 0], Waiting(zeros, zeros, zeros, keys), zeros))


@functools.partial(jax.jit, static_argnums=(0, 1))
def empty_outputs(rows: int, tokens: int) -> Outputs:
    return pinned(
        Outputs(
            tokens=jnp.zeros((rows, tokens), jnp.int32),
            logp=jnp.zeros((rows, tokens), jnp.float32),
            lengths=jnp.zeros(rows, jnp.int32),
            endings=jnp.full(rows, GOING, jnp.int32),
        )
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def empty_slots(
    config: ModelConfig, slots: int, units: int, prefix_room: int, suffix_room: int
) -> Slots:
    zeros = jnp.zeros(slots, jnp.int32)
    empty = Slots(
        rows=jnp.full(slots, IDLE, jnp.int32),
        tokens=zeros,
        filled=zeros,
        prefix_lengths=zeros,
        limits=zeros,
        starts=zeros,
        keys=jnp.zeros((slots, 2), jnp.uint32),
        prefix=transformer.empty_caches(config, units, prefix_room),
        suffix=transformer.empty_caches(config, slots, suffix_room),
    )
    return pinned(empty)


@functools.partial(jax.jit, static_argnums=0, static_argnames="chunk", donate_argnums=(2, 3))
def read_prompts(
    config: ModelConfig,
    decode_params: Any,
    bank: Bank,
    outputs: Outputs,
    tokens_PS: Int[Array, "P S"],
    lengths_P: Int[Array, " P"],
    places_P: Int[Array, " P"],
    waiting: Waiting,
    sampling: SamplingArrays,
    *,
    chunk: int,
) -> tuple[Bank, Outputs]:
    """Read each prompt once, into its place of the bank, and sample the first token of all its
    responses. A place past the last of the bank, and such a row, are nobody's."""
    hidden, caches = transformer.prefill(config, decode_params, tokens_PS, lengths_P, chunk=chunk)
    logits_PV = compute_logits(hidden, decode_params["head"])

    def first(of_P: Waiting) -> tuple[Array, Array]:
        uniform = uniforms(jax.random.wrap_key_data(of_P.keys), of_P.starts)
        return sample(logits_PV, uniform, of_P.starts, sampling)

    # The samples of a prompt share its logits: a loop over samples, not [P x G, V] of them.
    by_sample = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), waiting)
    token, logp = (found.T for found in jax.lax.map(first, by_sample))
    ending = _ending(token, jnp.int32(1), waiting.limits, sampling)
    rows = waiting.rows
    outputs = Outputs(
        tokens=outputs.tokens.at[rows, 0].set(token, mode="drop"),
        logp=outputs.logp.at[rows, 0].set(logp, mode="drop"),
        lengths=outputs.lengths.at[rows].set(1, mode="drop"),
        endings=outputs.endings.at[rows].set(ending, mode="drop"),
    )
    width = tokens_PS.shape[1]
    bank = Bank(
        caches=jax.tree.map(
            lambda all_, new: all_.at[places_P, :, :width].set(new, mode="drop"),
            bank.caches,
            caches,
        ),
        lengths=bank.lengths.at[places_P].set(lengths_P, mode="drop"),
        waiting=jax.tree.map(
            lambda all_, new: all_.at[places_P].set(new, mode="drop"), bank.waiting, waiting
        ),
        first=bank.first.at[places_P].set(token, mode="drop"),
    )
    return pinned(bank), pinned(outputs)


def _ending(
    token: Array, count: Array, limits: Array, sampling: SamplingArrays
) -> Int[Array, "..."]:
    """How a response stands whose token number `count` is this one."""
    cut = jnp.where(count >= limits, CUT, GOING)
    return jnp.where(sampling.stops_V[token], STOPPED, cut).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(
    config: ModelConfig,
    decode_params: Any,
    loop: Loop,
    bank: Bank,
    sampling: SamplingArrays,
    *,
    units: Int[Array, ""],
    more: Bool[Array, ""],
    chunk: Int[Array, ""],
) -> tuple[Loop, Report]:
    """Sample until `chunk` steps are over or all is done.

    The bank holds `units` units; with `more` behind it, an idle unit that it cannot fill ends the
    chunk too.
    """
    end = loop.steps + chunk

    def going(loop: Loop) -> Array:
        hungry = (loop.next_unit >= units) & jnp.any(_idle_units(loop.slots))
        busy = jnp.any(loop.slots.rows != IDLE)
        return (loop.steps < end) & busy & ~(more & hungry)

    def step(loop: Loop) -> Loop:
        return _refill(_advance(config, decode_params, loop, sampling), bank, units)

    loop = pinned(jax.lax.while_loop(going, step, _refill(loop, bank, units)))
    report = Report(
        # A copy: the loop's own is given to the next chunk before anybody has read it.
        endings=loop.outputs.endings + 0,
        next_unit=loop.next_unit + 0,
        busy_units=jnp.sum(~_idle_units(loop.slots)),
        most_filled=jnp.max(loop.slots.filled),
        steps=loop.steps + 0,
        busy_steps=loop.busy_steps + 0,
    )
    return loop, report


def _advance(config: ModelConfig, decode_params: Any, loop: Loop, sampling: SamplingArrays) -> Loop:
    """Read every slot's token, sample its next one and write that down."""
    slots = loop.slots
    hidden, suffix = transformer.extend(
        config,
        decode_params,
        slots.tokens[:, None],
        slots.prefix,
        slots.suffix,
        prefix_lengths_R=slots.prefix_lengths,
        filled_R=slots.filled,
    )
    logits = compute_logits(hidden[:, 0], decode_params["head"])
    taken = slots.filled + 1
    place = slots.starts + taken
    uniform = uniforms(jax.random.wrap_key_data(slots.keys), place)
    token, logp = sample(logits, uniform, place, sampling)
    alive = slots.rows != IDLE
    ending = _ending(token, taken + 1, slots.limits, sampling)
    # An idle slot writes past the last row, where nothing is.
    row = jnp.where(alive, slots.rows, len(loop.outputs.lengths))
    outputs = Outputs(
        tokens=loop.outputs.tokens.at[row, taken].set(token, mode="drop"),
        logp=loop.outputs.logp.at[row, taken].set(logp, mode="drop"),
        lengths=loop.outputs.lengths.at[row].set(taken + 1, mode="drop"),
        endings=loop.outputs.endings.at[row].set(ending, mode="drop"),
    )
    going_on = alive & (ending == GOING)
    slots = slots._replace(
        rows=jnp.where(going_on, slots.rows, IDLE),
        tokens=token,
        filled=jnp.where(going_on, taken, 0),
        suffix=suffix,
    )
    return loop._replace(
        slots=slots,
        outputs=outputs,
        steps=loop.steps + 1,
        busy_steps=loop.busy_steps + jnp.sum(alive).astype(jnp.float32),
    )


def _idle_units(slots: Slots) -> Array:
    return jnp.all(slots.rows.reshape(_count_units(slots), -1) == IDLE, axis=1)


def _count_units(slots: Slots) -> int:
    return slots.prefix[0].keys.shape[0]


def _refill(loop: Loop, bank: Bank, units: Array) -> Loop:
    """Give idle units the next responses of the bank, one unit after the other."""
    size = len(loop.slots.rows) // _count_units(loop.slots)
    waiting = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), bank.waiting)

    def possible(loop: Loop) -> Array:
        return (loop.next_unit < units) & jnp.any(_idle_units(loop.slots))

    def fill(loop: Loop) -> Loop:
        slots = loop.slots
        unit = jnp.argmax(_idle_units(slots)).astype(jnp.int32)
        taken = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=loop.next_unit * size, slice_size=size
        )
        put = functools.partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=unit * size, axis=0
        )
        next_ones = jax.tree.map(taken, waiting)
        prompt = loop.next_unit * size // bank.first.shape[1]
        # A response may be over with its first token.
        over = loop.outputs.endings[next_ones.rows] != GOING
        slots = Slots(
            rows=put(slots.rows, jnp.where(over, IDLE, next_ones.rows)),
            tokens=put(slots.tokens, taken(bank.first.reshape(-1))),
            filled=put(slots.filled, jnp.zeros_like(next_ones.rows)),
            prefix_lengths=put(slots.prefix_lengths, jnp.repeat(bank.lengths[prompt], size)),
            limits=put(slots.limits, next_ones.limits),
            starts=put(slots.starts, next_ones.starts),
            keys=put(slots.keys, next_ones.keys),
            prefix=copy_row(slots.prefix, bank.caches, unit, prompt),
            suffix=slots.suffix,
        )
        return loop._replace(slots=slots, next_unit=loop.next_unit + 1)

    return jax.lax.while_loop(possible, fill, loop)


@functools.partial(jax.jit, static_argnums=1)
def give_room(suffix: Caches, room: int) -> Caches:
    return pinned(grow(suffix, room))


@functools.partial(jax.jit, static_argnums=1)
def keep_busy(slots: Slots, units: int) -> Slots:
    """The slots of at most `units` units, the busy ones first: fewer rows to decode."""
    size = len(slots.rows) // _count_units(slots)
    kept = jnp.argsort(_idle_units(slots), stable=True)[:units]
    members = (kept[:, None] * size + jnp.arange(size)[None]).reshape(-1)
    rest = {
        name: getattr(slots, name)[members]
        for name in Slots._fields
        if name not in ("prefix", "suffix")
    }
    few = Slots(
        **rest, prefix=take_rows(slots.prefix, kept), suffix=take_rows(slots.suffix, members)
    )
    return pinned(few)


@jax.jit
def fetch(outputs: Outputs, rows: Int[Array, " n"]) -> Outputs:
    return pinned(jax.tree.map(lambda leaf: leaf[rows], outputs))


@functools.partial(jax.jit, donate_argnums=0)
def end_rows(loop: Loop, rows: Int[Array, " n"], lengths: Int[Array, " n"]) -> Loop:
    """Let responses end where the host found a stop string; rows past the last are nobody's."""
    outputs = loop.outputs._replace(
        lengths=loop.outputs.lengths.at[rows].set(lengths, mode="drop"),
        endings=loop.outputs.endings.at[rows].set(STOPPED, mode="drop"),
    )
    ended = jnp.any(loop.slots.rows[:, None] == rows[None], axis=1)
    slots = loop.slots._replace(
        rows=jnp.where(ended, IDLE, loop.slots.rows),
        filled=jnp.where(ended, 0, loop.slots.filled),
    )
    return loop._replace(slots=slots, outputs=outputs)
