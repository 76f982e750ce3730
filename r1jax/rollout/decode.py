"""The jitted part of a rollout: prompts are read once into a bank, and one `while_loop` turns
slots into responses, filling a slot again from the bank as soon as it falls idle.

    read_prompts   prompts into the Bank, and the first token of every response
    decode         slots forward, until the chunk is over or nothing is left to do
    give_room, keep_busy   more room per slot, fewer slots: between two chunks
    fetch          finished responses, to be read while the next chunk runs

A *unit* is U neighbouring slots whose responses answer the same prompt and share its cache. With
U = 1 every slot has a copy of its own, and is filled again alone.

A step reads a slot's last token and, with speculation, drafts behind it; it keeps as many tokens as
would have been sampled anyway (`speculative`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.mesh import constrain
from r1jax.models import transformer
from r1jax.models.config import ModelConfig
from r1jax.ops.kv_cache import Caches, LayerCache, copy_row, grow, put_rows, take_rows
from r1jax.ops.logprobs import compute_logits
from r1jax.ops.sampling import (
    SamplingArrays,
    choose,
    kept_tokens,
    plain_logp,
    shape,
    uniforms,
)
from r1jax.rollout import speculative
from r1jax.rollout.state import (
    CUT,
    GOING,
    IDLE,
    STOPPED,
    Bank,
    Loop,
    Outputs,
    Report,
    Slots,
    Variant,
    Waiting,
)

PLAIN = Variant()


def pinned(tree: Any) -> Any:
    """Caches split over the mesh, all else whole on every device: one layout between programs."""

    def pin(leaf: Any) -> Any:
        if isinstance(leaf, LayerCache):
            return transformer.pinned([leaf])[0]
        return constrain(leaf, *[None] * leaf.ndim)

    return jax.tree.map(pin, tree, is_leaf=lambda leaf: isinstance(leaf, LayerCache))


def prepare_params(config: ModelConfig, params: Any, *, int8: bool = False) -> dict[str, Any]:
    """Once per policy version. `int8`: the layers' projections, `RolloutConfig.int8_weights`."""
    # One program for those who say `int8=False` and those who say nothing.
    return _prepare_params(config, int8, params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prepare_params(config: ModelConfig, int8: bool, params: Any) -> dict[str, Any]:
    return transformer.prepare_decode_params(config, params, int8=int8)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), static_argnames="variant")
def empty_bank(
    config: ModelConfig,
    prompts: int,
    samples_per_prompt: int,
    room: int,
    *,
    variant: Variant = PLAIN,
) -> Bank:
    zeros = jnp.zeros(prompts * samples_per_prompt, jnp.int32)
    keys = jnp.zeros((prompts * samples_per_prompt, 2), jnp.uint32)
    bank = Bank(
        caches=empty_caches(config, variant, prompts, room),
        lengths=jnp.zeros(prompts, jnp.int32),
        waiting=Waiting(zeros, zeros, zeros, zeros, keys),
        first=zeros,
        memory=speculative.empty_beginnings(config, variant, prompts, room),
    )
    return pinned(bank)


def empty_caches(config: ModelConfig, variant: Variant, rows: int, room: int) -> Caches:
    """Of the model's layers and, where it drafts, of the MTP module."""
    more = int(variant.speculate == "mtp")
    return transformer.empty_caches(
        config, rows, room, more=more, int8=variant.int8_cache, turned=variant.turned_keys
    )


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="variant")
def empty_outputs(rows: int, tokens: int, *, variant: Variant = PLAIN) -> Outputs:
    zeros = jnp.zeros((rows, tokens), jnp.float32)
    return pinned(
        Outputs(
            tokens=jnp.zeros((rows, tokens), jnp.int32),
            logp=zeros,
            logp_plain=zeros if variant.plain_logp else None,
            kept=jnp.full((rows, tokens, variant.kept), -1, jnp.int32) if variant.kept else None,
            lengths=jnp.zeros(rows, jnp.int32),
            endings=jnp.full(rows, GOING, jnp.int32),
        )
    )


@functools.partial(
    jax.jit, static_argnums=(0, 1, 2, 3, 4), static_argnames=("variant", "text_room")
)
def empty_slots(
    config: ModelConfig,
    slots: int,
    units: int,
    prefix_room: int,
    suffix_room: int,
    *,
    variant: Variant = PLAIN,
    text_room: int = 0,
) -> Slots:
    """`text_room`: tokens of a prompt, its response and a draft, where drafts are looked up."""
    zeros = jnp.zeros(slots, jnp.int32)
    empty = Slots(
        rows=jnp.full(slots, IDLE, jnp.int32),
        tokens=zeros,
        filled=zeros,
        prefix_lengths=zeros,
        limits=zeros,
        starts=zeros,
        keys=jnp.zeros((slots, 2), jnp.uint32),
        prefix=empty_caches(config, variant, units, prefix_room),
        suffix=empty_caches(config, variant, slots, suffix_room),
        memory=speculative.empty_memory(config, variant, slots, text_room),
    )
    return pinned(empty)


@jax.jit
def empty_loop(slots: Slots, outputs: Outputs) -> Loop:
    zero = jnp.zeros((), jnp.int32)
    return Loop(slots, outputs, zero, zero, *[jnp.zeros((), jnp.float32)] * 3)


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("chunk", "variant"), donate_argnums=(2, 3)
)
def read_prompts(
    config: ModelConfig,
    decode_params: Any,
    bank: Bank,
    outputs: Outputs,
    tokens_PS: Int[Array, "P S"],
    lengths_P: Int[Array, " P"],
    places_P: Int[Array, " P"],
    queue_PG: Int[Array, "P G"],
    waiting: Waiting,
    sampling: SamplingArrays,
    *,
    chunk: int,
    variant: Variant = PLAIN,
) -> tuple[Bank, Outputs]:
    """Read each prompt once, into its place of the bank, sample the first token of all its
    responses and put these into the queue. A place past the last of the bank, or of the queue, is
    nobody's, and so is such a row."""
    hidden, caches = transformer.prefill(config, decode_params, tokens_PS, lengths_P, chunk=chunk)
    last_PD = transformer.take_last(hidden, lengths_P)
    logits_PV = compute_logits(last_PD, decode_params["head"])
    if variant.speculate == "mtp":
        own = speculative.prefill_mtp(config, decode_params, hidden, tokens_PS, lengths_P)
        caches = [*caches, own]

    def first(of_P: Waiting) -> Sampled:
        uniform = uniforms(jax.random.wrap_key_data(of_P.keys), of_P.starts)
        return _sample(variant, logits_PV, uniform, of_P.starts, sampling)

    # The samples of a prompt share its logits: a loop over samples, not [P x G, V] of them.
    by_sample = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), waiting)
    sampled = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), jax.lax.map(first, by_sample))
    token = sampled.tokens
    ending = _ending(token, jnp.int32(1), waiting.limits, sampling)
    rows = waiting.rows
    outputs = _put_down(outputs, rows, jnp.zeros_like(rows), sampled)._replace(
        lengths=outputs.lengths.at[rows].set(1, mode="drop"),
        endings=outputs.endings.at[rows].set(ending, mode="drop"),
    )
    bank = Bank(
        caches=put_rows(bank.caches, caches, places_P),
        lengths=bank.lengths.at[places_P].set(lengths_P, mode="drop"),
        waiting=jax.tree.map(
            lambda all_, new: all_.at[queue_PG].set(new, mode="drop"), bank.waiting, waiting
        ),
        first=bank.first.at[queue_PG].set(token, mode="drop"),
        memory=speculative.remember(variant, bank.memory, places_P, tokens_PS, last_PD),
    )
    return pinned(bank), pinned(outputs)


class Sampled(NamedTuple):
    """Tokens and their log-probs, under what they were sampled from and the model's own, and what
    else could have been drawn."""

    tokens: Int[Array, "..."]
    logp: Float[Array, "..."]
    logp_plain: Float[Array, "..."] | None
    kept: Int[Array, "... M"] | None


def _sample(
    variant: Variant,
    logits_RV: Float[Array, "R V"],
    uniform_R2: Float[Array, "R 2"],
    taken_R: Int[Array, " R"],
    sampling: SamplingArrays,
) -> Sampled:
    shaped = shape(logits_RV, taken_R, sampling)
    token, logp = choose(shaped, uniform_R2, sampling)
    return Sampled(
        token,
        logp,
        logp_plain=plain_logp(logits_RV, token) if variant.plain_logp else None,
        kept=kept_tokens(shaped, token, variant.kept, sampling) if variant.kept else None,
    )


def _put_down(outputs: Outputs, rows: Array, places: Array, sampled: Sampled) -> Outputs:
    """At these rows and places; past the last row is nowhere."""

    def put(name: str) -> Any:
        return getattr(outputs, name).at[rows, places].set(getattr(sampled, name), mode="drop")

    kept = [name for name, values in sampled._asdict().items() if values is not None]
    return outputs._replace(**{name: put(name) for name in kept})


def _ending(
    token: Array, count: Array, limits: Array, sampling: SamplingArrays
) -> Int[Array, "..."]:
    """How a response stands whose token number `count` is this one."""
    cut = jnp.where(count >= limits, CUT, GOING)
    return jnp.where(sampling.stops_V[token], STOPPED, cut).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0, static_argnames="variant", donate_argnums=2)
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
    variant: Variant = PLAIN,
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
        return _refill(_advance(config, variant, decode_params, loop, sampling), bank, units)

    loop = pinned(jax.lax.while_loop(going, step, _refill(loop, bank, units)))
    report = Report(
        # A copy: the loop's own is given to the next chunk before anybody has read it.
        endings=loop.outputs.endings + 0,
        next_unit=loop.next_unit + 0,
        busy_units=jnp.sum(~_idle_units(loop.slots)),
        most_filled=jnp.max(loop.slots.filled),
        steps=loop.steps + 0,
        busy_steps=loop.busy_steps + 0,
        drafted=loop.drafted + 0,
        accepted=loop.accepted + 0,
    )
    return loop, pinned(report)


def _advance(
    config: ModelConfig, variant: Variant, decode_params: Any, loop: Loop, sampling: SamplingArrays
) -> Loop:
    """Read every slot's token and the drafts behind it, sample behind each of them, and write down
    what plain decoding would have sampled."""
    drafts_Bd, slots = speculative.draft(config, variant, decode_params, loop.slots, sampling)
    hidden, suffix = transformer.extend(
        config,
        decode_params,
        # Where there is no draft, any token will do.
        jnp.concatenate([slots.tokens[:, None], jnp.maximum(drafts_Bd, 0)], axis=1),
        slots.prefix,
        slots.suffix,
        prefix_lengths_R=slots.prefix_lengths,
        filled_R=slots.filled,
    )
    taken = slots.filled[:, None] + 1 + jnp.arange(hidden.shape[1])[None]  # [B, C]
    sampled = _sample_places(variant, decode_params, hidden, slots, taken, sampling)
    token = sampled.tokens
    ending = _ending(token, taken + 1, slots.limits[:, None], sampling)
    # A place counts if the token read there is the one sampled before it, and that was no end.
    goes_on = (drafts_Bd == token[:, :-1]) & (ending[:, :-1] == GOING)
    accepted = jnp.sum(jnp.cumprod(goes_on, axis=1), axis=1, dtype=jnp.int32)
    alive = slots.rows != IDLE
    slots = slots._replace(suffix=[*suffix, *slots.suffix[config.layers :]])
    slots = speculative.note(slots, hidden, token, accepted + 1)
    return loop._replace(
        slots=_follow(slots, token, ending, accepted),
        outputs=_write_down(loop.outputs, slots, taken, sampled, ending, accepted),
        steps=loop.steps + 1,
        busy_steps=loop.busy_steps + _count(alive),
        drafted=loop.drafted + _count(alive[:, None] & (drafts_Bd != speculative.NOTHING)),
        accepted=loop.accepted + _count(jnp.where(alive, accepted, 0)),
    )


def _count(x: Array) -> Float[Array, ""]:
    return jnp.sum(x).astype(jnp.float32)


def _sample_places(
    variant: Variant,
    decode_params: Any,
    hidden_BCD: Float[Array, "B C D"],
    slots: Slots,
    taken_BC: Int[Array, "B C"],
    sampling: SamplingArrays,
) -> Sampled:
    """A token for every place [B, C], by the random numbers of that place."""
    count = hidden_BCD.shape[1]
    logits = compute_logits(hidden_BCD.reshape(-1, hidden_BCD.shape[2]), decode_params["head"])
    place = (slots.starts[:, None] + taken_BC).reshape(-1)
    keys = jax.random.wrap_key_data(jnp.repeat(slots.keys, count, axis=0))
    sampled = _sample(variant, logits, uniforms(keys, place), place, sampling)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]), sampled)


def _write_down(
    outputs: Outputs,
    slots: Slots,
    taken: Int[Array, "B C"],
    sampled: Sampled,
    ending: Int[Array, "B C"],
    accepted: Int[Array, " B"],
) -> Outputs:
    # An idle slot writes past the last row, where nothing is; so does what was not accepted.
    nowhere = len(outputs.lengths)
    row = jnp.where(slots.rows != IDLE, slots.rows, nowhere)
    kept = jnp.arange(taken.shape[1])[None] <= accepted[:, None]
    row_BC = jnp.where(kept, row[:, None], nowhere)
    return _put_down(outputs, row_BC, taken, sampled)._replace(
        lengths=outputs.lengths.at[row].set(_at(taken, accepted) + 1, mode="drop"),
        endings=outputs.endings.at[row].set(_at(ending, accepted), mode="drop"),
    )


def _follow(slots: Slots, token: Array, ending: Array, accepted: Int[Array, " B"]) -> Slots:
    """The slots behind the last token that was kept."""
    going_on = (slots.rows != IDLE) & (_at(ending, accepted) == GOING)
    return slots._replace(
        rows=jnp.where(going_on, slots.rows, IDLE),
        tokens=_at(token, accepted),
        filled=jnp.where(going_on, slots.filled + 1 + accepted, 0),
    )


def _at(of_BC: Array, place_B: Array) -> Array:
    return jnp.take_along_axis(of_BC, place_B[:, None], axis=1)[:, 0]


def _idle_units(slots: Slots) -> Array:
    return jnp.all(slots.rows.reshape(_count_units(slots), -1) == IDLE, axis=1)


def _count_units(slots: Slots) -> int:
    return slots.prefix[0].rows


def _refill(loop: Loop, bank: Bank, units: Array) -> Loop:
    """Give idle units the next responses of the bank, one unit after the other."""
    size = len(loop.slots.rows) // _count_units(loop.slots)

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
        next_ones = jax.tree.map(taken, bank.waiting)
        prompt = next_ones.prompts[0]
        # A response may be over with its first token.
        over = loop.outputs.endings[next_ones.rows] != GOING
        slots = Slots(
            rows=put(slots.rows, jnp.where(over, IDLE, next_ones.rows)),
            tokens=put(slots.tokens, taken(bank.first)),
            filled=put(slots.filled, jnp.zeros_like(next_ones.rows)),
            prefix_lengths=put(slots.prefix_lengths, jnp.repeat(bank.lengths[prompt], size)),
            limits=put(slots.limits, next_ones.limits),
            starts=put(slots.starts, next_ones.starts),
            keys=put(slots.keys, next_ones.keys),
            prefix=copy_row(slots.prefix, bank.caches, unit, prompt),
            suffix=slots.suffix,
            memory=jax.tree.map(
                put,
                slots.memory,
                speculative.begin(slots.memory, bank, prompt, taken(bank.first)),
            ),
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
    few = jax.tree.map(lambda leaf: leaf[members], slots._replace(prefix=[]))
    return pinned(few._replace(prefix=take_rows(slots.prefix, kept)))


@jax.jit
def fetch(outputs: Outputs, rows: Int[Array, " n"]) -> Outputs:
    return pinned(jax.tree.map(lambda leaf: leaf[rows], outputs))


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def end_rows(
    outputs: Outputs,
    slot_rows: Int[Array, " S"],
    filled: Int[Array, " S"],
    rows: Int[Array, " n"],
    lengths: Int[Array, " n"],
) -> tuple[Outputs, Int[Array, " S"], Int[Array, " S"]]:
    """Let responses end where the host found a stop string; rows past the last are nobody's. What
    it is given of the slots does not depend on their room."""
    outputs = outputs._replace(
        lengths=outputs.lengths.at[rows].set(lengths, mode="drop"),
        endings=outputs.endings.at[rows].set(STOPPED, mode="drop"),
    )
    ended = jnp.any(slot_rows[:, None] == rows[None], axis=1)
    return outputs, jnp.where(ended, IDLE, slot_rows), jnp.where(ended, 0, filled)
