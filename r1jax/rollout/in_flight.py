"""A rollout under way: lanes side by side, what they wrote down, and how it went."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.aside import Aside
from r1jax.rollout.lane import Lane, Waves
from r1jax.rollout.partial import Carried, take_groups
from r1jax.rollout.programs import Programs, Requests
from r1jax.rollout.stop_strings import Decoder, StopStrings
from r1jax.types import Rollouts


class InFlight:
    """A rollout the device is busy with. `finished` yields responses as they end; `collect` waits
    for all."""

    def __init__(
        self,
        start: Carried,
        waves: Iterator[Requests],
        programs: Programs,
        decode_text: Decoder | None,
    ) -> None:
        """`start`: all rows; this fills them in. `waves`: what banks are to hold."""
        programs.warm_up()
        self._plan = programs.plan
        self._waves = Waves(waves)
        self.rollouts, self._began = start.rollouts, start.began
        self.complete = start.complete  # [R] bool, True = no more tokens will come
        self._known = np.flatnonzero(start.complete)  # complete rows to be told of
        self._stopped = False
        stops = StopStrings(programs.sampling.stop_strings, decode_text)
        alone = self._plan.lanes == 1
        self._calls = [_here if alone else Aside() for _ in range(self._plan.lanes)]
        self._lanes = [
            call(Lane, programs, start, self._waves, stops)
            for call in self._calls
            if self._waves.more
        ]

    def collect(self) -> Rollouts:
        for _ in self.finished():
            pass
        return self.rollouts

    def finished(self) -> Iterator[np.ndarray]:
        """Rows of `rollouts` that are complete, some at a time, each once."""
        if self._known.size:
            known, self._known = self._known, self._known[:0]
            yield known
        while not self._stopped and not self._is_over():
            lanes = zip(self._calls, self._lanes, strict=False)
            going = [(call, lane) for call, lane in lanes if not lane.is_over()]
            # By what they have done, ready or not: what lanes take of the waves, and what a rollout
            # that is stopped has, does not depend on their speed.
            call, lane = min(going, key=lambda each: each[1].work)
            yield call(lane.look)

    def _is_over(self) -> bool:
        return all(lane.is_over() for lane in self._lanes)

    def stop(self) -> np.ndarray:
        """End the rollout here: rows that were complete and not yet told of. The other rows of
        `rollouts` are written down as far as they came, for `carry`; caches are given up."""
        known, self._known = self._known, self._known[:0]
        if self._stopped:
            return known
        self._stopped = True
        return np.concatenate([known, *(lane.stop() for lane in self._lanes)])

    def complete_groups(self) -> np.ndarray:
        """The prompts whose responses are all complete."""
        complete = self.complete.reshape(-1, self._plan.samples_per_prompt).all(axis=1)
        return np.flatnonzero(complete)

    def carry(self, groups: Sequence[int] | np.ndarray) -> Carried:
        """Groups of a rollout that was stopped, as they stand: for a later one to go on with."""
        if not self._stopped and not self._is_over():
            raise ValueError("responses are still being sampled: stop the rollout before `carry`")
        chosen = np.asarray(groups, int)
        complete = self.complete.reshape(-1, self._plan.samples_per_prompt)[chosen]
        return Carried(
            take_groups(self.rollouts, chosen), complete.reshape(-1), self._began[chosen]
        )

    @property
    def steps(self) -> int:
        """Decoding steps, of all lanes, by their last reports; so are the counts below."""
        return sum(lane.steps for lane in self._lanes)

    @property
    def busy_steps(self) -> float:
        """Busy slots, summed over steps."""
        return sum(lane.busy_steps for lane in self._lanes)

    @property
    def drafted(self) -> int:
        return sum(lane.drafted for lane in self._lanes)

    @property
    def accepted(self) -> int:
        return sum(lane.accepted for lane in self._lanes)

    @property
    def tokens(self) -> int:
        first_tokens = sum(int(lane.opened.sum()) for lane in self._lanes)
        return first_tokens + int(self.busy_steps) + self.accepted

    @property
    def busy_share(self) -> float:
        """How much of what was decoded was of a response: a tail has fewer slots."""
        return self.busy_steps / max(1, sum(lane.slot_steps for lane in self._lanes))

    @property
    def tokens_per_step(self) -> float:
        """By how many tokens a response grew in a step: 1, and the drafts that were accepted."""
        return 1 + self.accepted / max(1, self.busy_steps)

    def stats(self) -> dict[str, float]:
        """How it went, for the metrics of its step."""
        staleness = np.asarray(self.rollouts.staleness)[self.complete]
        stats = {
            "rollout/steps": float(self.steps),
            "rollout/busy_share": self.busy_share,
            "rollout/staleness_mean": float(staleness.mean()) if staleness.size else 0.0,
            "rollout/staleness_max": float(staleness.max(initial=0)),
        }
        if self._plan.variant.speculate != "none":
            stats |= {
                "rollout/drafted": float(self.drafted),
                "rollout/acceptance_rate": self.accepted / max(1, self.drafted),
                "rollout/tokens_per_step": self.tokens_per_step,
            }
        return stats

    def so_far(self) -> Any:
        """`Outputs` of all rows that were opened, as they are behind the chunks under way: waits
        for these."""
        first, *others = self._lanes
        outputs = first.so_far()
        for lane in others:
            put = functools.partial(_put_rows, lane.opened)
            outputs = jax.tree.map(put, outputs, lane.so_far())
        return outputs


def _put_rows(chosen_R: np.ndarray, known: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.where(chosen_R.reshape(-1, *[1] * (new.ndim - 1)), new, known)


def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
