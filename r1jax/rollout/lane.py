"""What the host does around one jitted loop of `decode`.

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
from r1jax.rollout.partial import Carried
from r1jax.rollout.programs import Programs, Requests
from r1jax.rollout.stop_strings import StopStrings


class Waves:
    """What banks are to hold, one filling after the other; asked for one ahead."""

    def __init__(self, waves: Iterator[Requests]) -> None:
        self._waves, self._next = waves, next(waves, None)

    @property
    def more(self) -> bool:
        return self._next is not None

    def take(self) -> Requests | None:
        wave, self._next = self._next, next(self._waves, None)
        return wave


class _Chunk(NamedTuple):
    """Decoding under way."""

    report: decode.Report
    steps: int  # at most
    slots: int  # decoded in each step
    wave: int  # the prompts in the bank


class Lane:
    """A loop with a bank of its own, which takes waves as its slots fall idle."""

    def __init__(
        self, programs: Programs, start: Carried, waves: Waves, stops: StopStrings
    ) -> None:
        """`start`: all rows; this fills in those that it opens."""
        plan = programs.plan
        self._programs, self._plan = programs, plan
        self._waves, self._stops = waves, stops
        self._bank, self._units = programs.empty_bank(), 0
        self._loop = programs.empty_loop(plan.sizes[0], plan.rooms[0])
        self._room = 0  # a place in plan.rooms
        self._size = plan.sizes[0]  # units decoded at once
        self._busy = plan.sizes[0]  # units, at most
        self._most_filled = 0  # at most, after the chunks under way
        self._wave = 0  # how many were opened
        self._under_way: collections.deque[_Chunk] = collections.deque()
        self._arriving: list[tuple[np.ndarray, decode.Outputs]] = []
        self._rollouts, self._complete = start.rollouts, start.complete
        # Tokens that a row goes on from.
        self._had = np.where(start.complete, 0, start.rollouts.lengths)
        self.opened = np.zeros(plan.rows, bool)  # rows whose prompt has been read here
        self._seen_ended = np.zeros(plan.rows, bool)
        self._stopped = False
        # Decoding steps; slots and busy slots, summed over them.
        self.steps, self.slot_steps, self.busy_steps = 0, 0, 0.0
        self.drafted, self.accepted = 0, 0  # tokens
        self._open_wave()
        self._start_chunk()

    def is_over(self) -> bool:
        return not self._waves.more and bool(self._complete[self.opened].all())

    @property
    def work(self) -> int:
        """Rows decoded, and for every step what reading the weights costs a CPU, in rows."""
        return self.slot_steps + 8 * self.steps

    def stop(self) -> np.ndarray:
        """End here: rows that were complete and not yet told of. The other rows are written down as
        far as they came; caches are given up."""
        self._stopped, self._arriving = True, []
        rows = np.flatnonzero(self.opened & ~self._complete)
        found = jax.tree.map(lambda leaf: leaf[rows], self.so_far())
        complete = self._arrive(rows, found)
        going = ~self._complete[rows]
        self._write_down(rows[going], jax.tree.map(lambda leaf: leaf[going], found))
        del self._loop, self._bank
        return complete

    def so_far(self) -> Any:
        """`Outputs`, as they are behind the chunks under way: waits for these."""
        return jax.device_get(self._loop.outputs)

    def look(self) -> np.ndarray:
        """Keep the device busy, then read its oldest report; rows that have become complete."""
        arriving, self._arriving = self._arriving, []
        if not self._under_way or (len(self._under_way) < 2 and self._may_need_more()):
            self._start_chunk()
        chunk = self._under_way.popleft()
        report = jax.device_get(chunk.report)
        self.slot_steps += (int(report.steps) - self.steps) * chunk.slots
        self.steps, self.busy_steps = int(report.steps), float(report.busy_steps)
        self.drafted, self.accepted = int(report.drafted), int(report.accepted)
        self._busy = int(report.busy_units)
        under_way = self._steps_under_way() * self._plan.per_step
        self._most_filled = int(report.most_filled) + under_way
        ended = report.endings != decode.GOING
        # With stop strings, what goes on must be read too.
        wanted = ~self._complete if self._stops else ended & ~self._seen_ended
        self._fetch(np.flatnonzero(wanted & self.opened))
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
        rows = int(self.opened.sum())
        fillings = np.inf if self._waves.more else -(-rows // (plan.sizes[0] * plan.unit))
        dispatched = self.steps + self._steps_under_way()
        return dispatched < fillings * (plan.max_tokens - 1) and not self._all_ended()

    def _all_ended(self) -> bool:
        return not self._waves.more and bool(self._seen_ended[self.opened].all())

    def _steps_under_way(self) -> int:
        return sum(chunk.steps for chunk in self._under_way)

    def _open_wave(self) -> None:
        """Read the next prompts into the bank, where there are any."""
        wave = self._waves.take()
        if wave is None:
            return
        self._wave += 1
        self.opened[wave.rows] = True
        self._bank, outputs = self._programs.read(self._bank, self._loop.outputs, wave)
        self._units = wave.rows.size // self._plan.unit
        self._loop = self._loop._replace(
            outputs=outputs, next_unit=jnp.zeros_like(self._loop.next_unit)
        )

    def _start_chunk(self) -> None:
        chunk = self._plan.chunk
        self._most_filled += chunk * self._plan.per_step
        self._fit()
        self._loop, report = self._programs.run(
            self._loop,
            self._bank,
            units=self._units,
            more=self._waves.more,
            chunk=chunk,
        )
        slots = self._size * self._plan.unit
        self._under_way.append(_Chunk(report, chunk, slots, self._wave))

    def _fit(self) -> None:
        """Room for what the next chunk may add; fewer slots once only a tail is left."""
        plan, slots = self._plan, self._loop.slots
        # By one room and one size after the other: the programs for that have been compiled.
        while self._most_filled > plan.rooms[self._room] and self._room < len(plan.rooms) - 1:
            self._room += 1
            slots = slots._replace(suffix=decode.give_room(slots.suffix, plan.rooms[self._room]))
        if not self._waves.more:
            while (size := plan.next_size(self._size, self._room)) and size >= self._busy:
                self._size = size
                slots = decode.keep_busy(slots, size)
        self._loop = self._loop._replace(slots=slots)

    def _fetch(self, rows: np.ndarray) -> None:
        """Ask for copies of these rows; they arrive behind the chunk under way."""
        block = self._plan.fetched
        for first in range(0, len(rows), block):
            some = rows[first : first + block]
            padded = np.append(some, np.repeat(some[:1], block - len(some)))
            self._arriving.append((some, decode.fetch(self._loop.outputs, padded)))

    def _arrive(self, rows: np.ndarray, found: Any) -> np.ndarray:
        """Write fetched rows down that are complete; which these are."""
        found = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], found)
        if self._stops:
            found = self._end_at_strings(rows, found)
        ended = (found.endings != decode.GOING) & ~self._complete[rows]
        complete = rows[ended]
        self._write_down(complete, jax.tree.map(lambda leaf: leaf[ended], found))
        self._complete[complete] = True
        return complete

    def _write_down(self, rows: np.ndarray, found: Any) -> None:
        """What these rows had, and behind it what came in this rollout."""
        had, lengths = self._had[rows][:, None], found.lengths[:, None]
        places = np.arange(self._plan.max_tokens)[None]
        new = np.maximum(places - had, 0)
        blanks = {"tokens": 0, "logp": 0, "logp_plain": 0, "kept": -1}
        for name, blank in blanks.items():
            all_ = getattr(self._rollouts, name)
            if all_ is not None:
                wide = (..., *[None] * (all_.ndim - 2))
                came = np.take_along_axis(getattr(found, name), new[wide], axis=1)
                came = np.where((places < had + lengths)[wide], came, blank)
                all_[rows] = np.where((places < had)[wide], all_[rows], came)
        self._rollouts.lengths[rows] = (had + lengths)[:, 0]
        self._rollouts.finished[rows] = found.endings == decode.STOPPED

    def _end_at_strings(self, rows: np.ndarray, found: Any) -> Any:
        """The rows with stop strings seen to; on the device too."""
        had = self._had[rows]
        cuts = np.zeros(len(rows), np.int32)
        for at, row in enumerate(rows.tolist()):
            new = found.tokens[at, : found.lengths[at]]
            cuts[at] = self._stops.find(
                row, np.concatenate([self._rollouts.tokens[row, : had[at]], new])
            )
        hit = (cuts > 0) & ~self._complete[rows]
        if hit.any() and not self._stopped:
            nobody = np.full(self._plan.fetched - hit.sum(), self._plan.rows)
            ended = np.append(rows[hit], nobody).astype(np.int32)
            at = np.append((cuts - had)[hit], 0 * nobody).astype(np.int32)
            self._loop = self._programs.end_rows(self._loop, ended, at)
            self._seen_ended[rows[hit]] = True
        return found._replace(
            lengths=np.where(hit, cuts - had, found.lengths),
            endings=np.where(hit, decode.STOPPED, found.endings),
        )
