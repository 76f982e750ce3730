"""From prompts to `Rollouts`: what the host does around the jitted loop of `decode`.

The device is always one chunk ahead: the host dispatches the next chunk, and only then looks at the
report of the one before, hands finished responses on, makes room, and reads in more prompts.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.errors import UserError
from r1jax.mesh import BATCH_AXES
from r1jax.models import Transformer
from r1jax.models.config import ModelConfig
from r1jax.ops.sampling import SamplingArrays, SamplingParams, row_keys
from r1jax.rollout import decode
from r1jax.rollout import plan as planning
from r1jax.rollout.plan import Plan, RolloutConfig
from r1jax.rollout.stop_strings import Decoder, StopStrings
from r1jax.types import Params, PromptBatch, Rollouts

Prompts = Sequence[Sequence[int]] | Sequence[np.ndarray]
DEFAULTS = RolloutConfig()
FETCHED = 64  # responses copied to the host by one program


def generate(
    module: Transformer,
    params: Params,
    prompts: PromptBatch | Prompts,
    *,
    sampling: SamplingParams,
    samples_per_prompt: int,
    seed: int,
    step: int = 0,
    config: RolloutConfig = DEFAULTS,
    decode_text: Decoder | None = None,
) -> Rollouts:
    """Sample `samples_per_prompt` responses to each prompt.

    A response depends on (seed, step, prompt id, sample) and the parameters only: not on what else
    is in the batch, nor on slots, chunks or devices. Bare token lists get their place in the list
    as id. `decode_text` is needed for stop strings only.
    """
    rollout = dispatch(
        module,
        decode.prepare_params(module.config, params),
        as_prompt_batch(prompts),
        sampling=sampling,
        samples_per_prompt=samples_per_prompt,
        seed=seed,
        step=step,
        config=config,
        decode_text=decode_text,
    )
    return rollout.collect()


def dispatch(
    module: Transformer,
    decode_params: Any,
    prompts: PromptBatch,
    *,
    sampling: SamplingParams,
    samples_per_prompt: int,
    seed: int,
    step: int = 0,
    config: RolloutConfig = DEFAULTS,
    decode_text: Decoder | None = None,
) -> "InFlight":
    """Start a rollout and return at once. Parameters come from `decode.prepare_params`."""
    if sampling.stop_strings and decode_text is None:
        raise ValueError("sampling.stop_strings: need decode_text, tokens to text")
    require_prompts(prompts.tokens)
    if config.speculate == "mtp" and not module.config.mtp:
        raise UserError("rollout.speculate='mtp': this model has no MTP module; use 'ngram'")
    plan = planning.make_plan(
        [len(tokens) for tokens in prompts.tokens],
        samples_per_prompt=samples_per_prompt,
        sampling=sampling,
        config=config,
        row_multiple=count_batch_shards(),
    )
    requests = make_requests(prompts, plan, first=0, seed=seed, step=step)
    programs = Programs(module.config, decode_params, config, plan, sampling)
    return InFlight(prompts, iter(_split(requests, plan.bank_prompts)), programs, decode_text)


class Requests(NamedTuple):
    """P prompts and the G responses wanted to each, as `decode.Waiting` has them."""

    prompts: Sequence[np.ndarray]
    rows: np.ndarray
    limits: np.ndarray
    starts: np.ndarray
    keys: np.ndarray

    def take(self, chosen: np.ndarray) -> "Requests":
        arrays = (leaf[chosen] for leaf in self[1:])
        return Requests([self.prompts[index] for index in chosen], *arrays)


def make_requests(
    prompts: PromptBatch, plan: Plan, *, first: int, seed: int, step: int
) -> Requests:
    """All responses to these prompts; the first comes out at row `first`."""
    ids_PG = np.repeat(prompts.ids[:, None], plan.samples_per_prompt, axis=1).astype(np.uint32)
    samples_G = np.arange(plan.samples_per_prompt, dtype=np.uint32)
    return Requests(
        prompts=prompts.tokens,
        rows=first + np.arange(ids_PG.size, dtype=np.int32).reshape(ids_PG.shape),
        limits=np.full(ids_PG.shape, plan.max_tokens, np.int32),
        starts=np.zeros(ids_PG.shape, np.int32),
        keys=_make_keys(seed, step, ids_PG, np.broadcast_to(samples_G, ids_PG.shape)),
    )


_SEEN: set[Any] = set()  # plans whose programs have been compiled, in this process


@dataclasses.dataclass(frozen=True)
class Programs:
    """The jitted functions of `decode` with what stays the same during a rollout."""

    model: ModelConfig
    decode_params: Any
    config: RolloutConfig
    plan: Plan
    sampling: SamplingParams

    @functools.cached_property
    def sampling_arrays(self) -> SamplingArrays:
        return SamplingArrays.of(self.sampling, self.model.vocab_size)

    def empty_bank(self) -> decode.Bank:
        plan = self.plan
        return decode.empty_bank(
            self.model,
            plan.bank_prompts,
            plan.samples_per_prompt,
            plan.prompt_room,
            variant=plan.variant,
        )

    def empty_loop(self, units: int, room: int) -> decode.Loop:
        plan = self.plan
        slots = decode.empty_slots(
            self.model,
            units * plan.unit,
            units,
            plan.prompt_room,
            room,
            variant=plan.variant,
            text_room=plan.text_room,
        )
        return decode.empty_loop(slots, decode.empty_outputs(plan.rows, plan.max_tokens))

    def run(
        self, loop: decode.Loop, bank: decode.Bank, *, units: int, more: bool, chunk: int
    ) -> tuple[decode.Loop, decode.Report]:
        return decode.decode(
            self.model,
            self.decode_params,
            loop,
            bank,
            self.sampling_arrays,
            units=np.int32(units),
            more=np.bool_(more),
            chunk=np.int32(chunk),
            variant=self.plan.variant,
        )

    def read(
        self, bank: decode.Bank, outputs: decode.Outputs, requests: Requests
    ) -> tuple[decode.Bank, decode.Outputs]:
        """All prompts into the bank, in their order, those of like length by one program."""
        widths = np.array([planning.prompt_bucket(len(tokens)) for tokens in requests.prompts])
        for width in sorted(set(widths.tolist())):
            members = np.flatnonzero(widths == width)
            at_once = self._prompts_at_once(width)
            for first in range(0, len(members), at_once):
                chosen = members[first : first + at_once]
                bank, outputs = self._read_some(bank, outputs, requests, chosen, width, at_once)
        return bank, outputs

    def _prompts_at_once(self, width: int) -> int:
        multiple = count_batch_shards()
        wanted = max(1, min(self.plan.bank_prompts, self.config.prefill_tokens // width))
        return -(-wanted // multiple) * multiple

    def _read_some(
        self,
        bank: decode.Bank,
        outputs: decode.Outputs,
        requests: Requests,
        chosen: np.ndarray,
        width: int,
        at_once: int,
    ) -> tuple[decode.Bank, decode.Outputs]:
        tokens = np.zeros((at_once, width), np.int32)
        lengths = np.ones(at_once, np.int32)
        for place, index in enumerate(chosen):
            prompt = requests.prompts[index]
            tokens[place, : len(prompt)] = prompt
            lengths[place] = len(prompt)
        missing = at_once - len(chosen)
        padded = requests.take(np.append(chosen, np.repeat(chosen[:1], missing)))
        places = np.append(chosen, np.repeat(self.plan.bank_prompts, missing))
        padded.rows[len(chosen) :] = self.plan.rows
        return decode.read_prompts(
            self.model,
            self.decode_params,
            bank,
            outputs,
            tokens,
            lengths,
            places.astype(np.int32),
            decode.Waiting(*map(jnp.asarray, padded[1:])),
            self.sampling_arrays,
            chunk=self.config.prefill_chunk,
            variant=self.plan.variant,
        )

    def warm_up(self) -> None:
        """Compile the decoding programs of a plan at its first use, so that no later rollout meets
        one it has not seen: which ones a rollout needs depends on how long its responses get."""
        seen = (self.model, self.plan, jax.sharding.get_mesh())
        if seen in _SEEN:
            return
        planning.require_memory(
            self.model,
            self.plan,
            max(1, jax.sharding.get_mesh().size),
            planning.free_memory(jax.local_devices()[0]),
        )
        bank = self.empty_bank()
        for units, room in decoding_shapes(self.plan):
            loop = self.empty_loop(units, room)
            # Waited for: the next one's caches are made when this one's are gone.
            jax.block_until_ready(self.run(loop, bank, units=0, more=False, chunk=1))
        _SEEN.add(seen)


def decoding_shapes(plan: Plan) -> list[tuple[int, int]]:
    """(units, room) of every decoding program: slots grow while all are there, then get fewer."""
    return [(plan.sizes[0], room) for room in plan.rooms] + [
        (units, plan.rooms[-1]) for units in plan.sizes[1:]
    ]


class _Chunk(NamedTuple):
    """Decoding under way."""

    report: decode.Report
    steps: int  # at most
    wave: int  # the prompts in the bank


class InFlight:
    """A rollout the device is busy with. `finished` yields responses as they end; `collect` waits
    for all."""

    def __init__(
        self,
        prompts: PromptBatch,
        waves: Iterator[Requests],
        programs: Programs,
        decode_text: Decoder | None,
    ) -> None:
        """`waves`: what the bank is to hold, one filling after the other; asked for one ahead."""
        programs.warm_up()
        plan = programs.plan
        self._programs, self._plan = programs, plan
        self._waves, self._next_wave = waves, next(waves, None)
        self._stops = StopStrings(programs.sampling.stop_strings, decode_text)
        self._bank, self._units = programs.empty_bank(), 0
        self._loop = programs.empty_loop(plan.sizes[0], plan.rooms[0])
        self._room, self._size = 0, 0  # places in plan.rooms and plan.sizes
        self._busy = plan.sizes[0]  # units, at most
        self._most_filled = 0  # at most, after the chunks under way
        self._wave = 0  # how many were opened
        self._under_way: collections.deque[_Chunk] = collections.deque()
        self._arriving: list[tuple[np.ndarray, decode.Outputs]] = []
        self._opened = np.zeros(plan.rows, bool)  # rows whose prompt has been read
        self._complete = np.zeros(plan.rows, bool)
        self._seen_ended = np.zeros(plan.rows, bool)
        self.steps, self.busy_steps = 0, 0.0  # decoding steps; busy slots, summed over them
        self.drafted, self.accepted = 0, 0  # tokens
        shape = (plan.rows, plan.max_tokens)
        self.rollouts = Rollouts(
            prompts=prompts,
            tokens=np.zeros(shape, np.int32),
            logp=np.zeros(shape, np.float32),
            lengths=np.zeros(plan.rows, np.int32),
            finished=np.zeros(plan.rows, bool),
        )
        self._open_wave()
        self._start_chunk()

    def collect(self) -> Rollouts:
        for _ in self.finished():
            pass
        return self.rollouts

    def finished(self) -> Iterator[np.ndarray]:
        """Rows of `rollouts` that are complete, some at a time, each once."""
        while self._next_wave is not None or not self._complete[self._opened].all():
            yield self._look()

    @property
    def busy_share(self) -> float:
        """How much of the slots' time had a response in it."""
        slots = self._plan.sizes[0] * self._plan.unit
        return self.busy_steps / max(1, self.steps * slots)

    @property
    def tokens_per_step(self) -> float:
        """By how many tokens a response grew in a step: 1, and the drafts that were accepted."""
        return 1 + self.accepted / max(1, self.busy_steps)

    def so_far(self) -> Any:
        """`Outputs` of all rows, as they are behind the chunks under way: waits for these."""
        return jax.device_get(self._loop.outputs)

    def _look(self) -> np.ndarray:
        """Keep the device busy, then read its oldest report; rows that have become complete."""
        arriving, self._arriving = self._arriving, []
        if not self._under_way or (len(self._under_way) < 2 and self._may_need_more()):
            self._start_chunk()
        chunk = self._under_way.popleft()
        report = jax.device_get(chunk.report)
        self.steps, self.busy_steps = int(report.steps), float(report.busy_steps)
        self.drafted, self.accepted = int(report.drafted), int(report.accepted)
        self._busy = int(report.busy_units)
        under_way = self._steps_under_way() * self._plan.per_step
        self._most_filled = int(report.most_filled) + under_way
        ended = report.endings != decode.GOING
        # With stop strings, what goes on must be read too.
        wanted = ~self._complete if self._stops else ended & ~self._seen_ended
        self._fetch(np.flatnonzero(wanted))
        self._seen_ended |= ended
        # A report from before the last prompts were read says nothing about them.
        if chunk.wave == self._wave and report.next_unit >= self._units:
            self._open_wave()
        if self._all_ended():  # no chunk follows that could run meanwhile
            arriving, self._arriving = arriving + self._arriving, []
        complete = [self._arrive(rows, found) for rows, found in arriving]
        return np.concatenate([np.zeros(0, np.int64), *complete])

    def _may_need_more(self) -> bool:
        """Can the chunks under way leave anything to do?"""
        plan = self._plan
        # A slot is never idle while responses wait, so the slots are filled so many times at most.
        rows = int(self._opened.sum())
        fillings = -(-rows // (plan.sizes[0] * plan.unit)) if self._next_wave is None else np.inf
        dispatched = self.steps + self._steps_under_way()
        return dispatched < fillings * (plan.max_tokens - 1) and not self._all_ended()

    def _all_ended(self) -> bool:
        return self._next_wave is None and bool(self._seen_ended[self._opened].all())

    def _steps_under_way(self) -> int:
        return sum(chunk.steps for chunk in self._under_way)

    def _open_wave(self) -> None:
        """Read the next prompts into the bank, where there are any."""
        wave = self._next_wave
        if wave is None:
            return
        self._wave, self._next_wave = self._wave + 1, next(self._waves, None)
        self._opened[wave.rows] = True
        self._bank, outputs = self._programs.read(self._bank, self._loop.outputs, wave)
        self._units = wave.rows.size // self._plan.unit
        self._loop = self._loop._replace(
            outputs=outputs, next_unit=jnp.zeros_like(self._loop.next_unit)
        )

    def _start_chunk(self) -> None:
        chunk = self._programs.config.chunk
        self._most_filled += chunk * self._plan.per_step
        self._fit()
        self._loop, report = self._programs.run(
            self._loop,
            self._bank,
            units=self._units,
            more=self._next_wave is not None,
            chunk=chunk,
        )
        self._under_way.append(_Chunk(report, chunk, self._wave))

    def _fit(self) -> None:
        """Room for what the next chunk may add; fewer slots once only a tail is left."""
        plan, slots = self._plan, self._loop.slots
        wanted = next((r for r in plan.rooms if r >= self._most_filled), plan.rooms[-1])
        if wanted > plan.rooms[self._room]:
            self._room = plan.rooms.index(wanted)
            slots = slots._replace(suffix=decode.give_room(slots.suffix, wanted))
        if self._room == len(plan.rooms) - 1:
            fitting = [at for at, size in enumerate(plan.sizes) if size >= self._busy]
            if fitting[-1] > self._size and self._next_wave is None:
                self._size = fitting[-1]
                slots = decode.keep_busy(slots, plan.sizes[self._size])
        self._loop = self._loop._replace(slots=slots)

    def _fetch(self, rows: np.ndarray) -> None:
        """Ask for copies of these rows; they arrive behind the chunk under way."""
        block = min(FETCHED, self._plan.rows)
        for first in range(0, len(rows), block):
            some = rows[first : first + block]
            padded = np.append(some, np.repeat(some[:1], block - len(some)))
            self._arriving.append((some, decode.fetch(self._loop.outputs, padded)))

    def _arrive(self, rows: np.ndarray, found: decode.Outputs) -> np.ndarray:
        """Write fetched rows down; those of them that are complete."""
        tokens, logp, lengths, endings = (leaf[: len(rows)] for leaf in jax.device_get(found))
        if self._stops:
            lengths, endings = self._stop(rows, tokens, lengths, endings)
        kept = np.arange(tokens.shape[1])[None] < lengths[:, None]
        ended = (endings != decode.GOING) & ~self._complete[rows]
        complete = rows[ended]
        self.rollouts.tokens[complete] = np.where(kept, tokens, 0)[ended]
        self.rollouts.logp[complete] = np.where(kept, logp, 0)[ended]
        self.rollouts.lengths[complete] = lengths[ended]
        self.rollouts.finished[complete] = endings[ended] == decode.STOPPED
        self._complete[complete] = True
        return complete

    def _stop(
        self, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray, endings: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, endings) with stop strings seen to, on the device too."""
        cuts = np.array(
            [
                self._stops.find(row, text[:length])
                for row, text, length in zip(rows.tolist(), tokens, lengths.tolist(), strict=True)
            ]
        )
        hit = (cuts > 0) & ~self._complete[rows]
        block = min(FETCHED, self._plan.rows)
        nobody = np.full(block - hit.sum(), self._plan.rows)
        ended = np.append(rows[hit], nobody).astype(np.int32)
        at = np.append(cuts[hit], 0 * nobody).astype(np.int32)
        if hit.any():
            self._loop = decode.end_rows(self._loop, ended, at)
            self._seen_ended[rows[hit]] = True
        return np.where(hit, cuts, lengths), np.where(hit, decode.STOPPED, endings)


def _split(requests: Requests, prompts: int) -> list[Requests]:
    everything = np.arange(len(requests.prompts))
    parts = np.split(everything, range(prompts, len(everything), prompts))
    return [requests.take(part) for part in parts]


@jax.jit
def _key_data(seed: Any, step: Any, ids_R: Any, samples_R: Any) -> jax.Array:
    return jax.random.key_data(row_keys(seed, step, ids_R, samples_R))


def _make_keys(seed: int, step: int, ids_PG: np.ndarray, samples_PG: np.ndarray) -> np.ndarray:
    keys = _key_data(seed, step, ids_PG.reshape(-1), samples_PG.reshape(-1))
    return np.asarray(keys).reshape(*ids_PG.shape, 2)


def count_batch_shards() -> int:
    """Over how many shards rows lie: their number is made a multiple of it."""
    mesh = jax.sharding.get_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def as_prompt_batch(prompts: PromptBatch | Prompts) -> PromptBatch:
    if isinstance(prompts, PromptBatch):
        return prompts
    tokens = tuple(np.asarray(p, np.int32) for p in prompts)
    return PromptBatch(np.arange(len(tokens)), tokens, ({},) * len(tokens))


def require_prompts(prompts: Sequence[np.ndarray]) -> None:
    if not len(prompts):
        raise ValueError("no prompts: give at least one")
    empty = [index for index, tokens in enumerate(prompts) if not len(tokens)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: a prompt needs a token")
