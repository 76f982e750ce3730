"""What the host does around the jitted loop of `decode`.

The device is always one chunk ahead: the host dispatches the next chunk, and only then looks at the
report of the one before, hands finished responses on, makes room, and reads in more prompts.
"""

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.rollout import decode
from r1jax.rollout.programs import Programs, Requests
from r1jax.rollout.stop_strings import Decoder, StopStrings
from r1jax.types import PromptBatch, Rollouts

FETCHED = 64  # responses copied to the host by one program


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
            logp_plain=np.zeros(shape, np.float32) if plan.variant.plain_logp else None,
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
        found = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], found)
        lengths, endings = np.asarray(found.lengths), np.asarray(found.endings)
        if self._stops:
            lengths, endings = self._stop(rows, np.asarray(found.tokens), lengths, endings)
        kept = np.arange(found.tokens.shape[1])[None] < lengths[:, None]
        ended = (endings != decode.GOING) & ~self._complete[rows]
        complete = rows[ended]
        for name in ("tokens", "logp", "logp_plain"):
            if getattr(found, name) is not None:
                values = np.where(kept, getattr(found, name), 0)
                getattr(self.rollouts, name)[complete] = values[ended]
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
