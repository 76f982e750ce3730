"""Judges samples while something else goes on, and combines the verdicts to rewards.

    with Grader(Reward({"accuracy": 1.0, "format": 0.1})) as grader:
        pending = grader.submit(samples)        # returns at once
        ...                                     # the device decodes on
        samples, grades = grader.finish(pending.collect(), group=16)

What is cheap is judged in `submit`. Mathematics and custom functions run in killable worker
processes (`pool`), programs in sandboxes, judges are asked over HTTP; each has a deadline. What
hangs, dies or cannot be reached costs its own sample, which is masked and counted. Workers start
when they are first needed and end with `close`, or with this process. Nothing here forks.
"""

import collections
import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards import compose, parts, verifiers
from r1jax.rewards.compose import Grade, Reward
from r1jax.rewards.lanes import Lanes, SandboxLane
from r1jax.rewards.pool import Outcome, Pool, PoolError
from r1jax.rewards.samples import Judgement, Sample, as_json

_TARGET = "r1jax.rewards.workers:answer"
_JUDGE_LANES = 16
_JUDGE_IS_DOWN = 2 * _JUDGE_LANES  # so many failures in a row, and nobody else is kept waiting
_WALL_PER_CPU = 5.0  # a worker that shares its core is not killed for it
_ALL_LOST = 16  # so many samples, of which a slow part could judge none, are no accident


@dataclasses.dataclass(frozen=True)
class Limits:
    workers: int = 0  # 0 = one less than cores
    timeout_s: float = 2.0  # processor time of one answer, or custom function, in its worker
    deadline_s: float = 300.0  # of all samples of one `submit`

    @property
    def lanes(self) -> int:
        return self.workers or max(1, (os.cpu_count() or 2) - 1)


class _Row:
    """How many failures there were since the last success, in several threads."""

    def __init__(self) -> None:
        self.length = 0
        self._lock = threading.Lock()

    def add(self, failed: bool) -> None:
        with self._lock:
            self.length = self.length + 1 if failed else 0


class Pending:
    """Samples on their way. `collect` waits for their verdicts, up to the deadline."""

    def __init__(self, samples: Sequence[Sample], deadline: float) -> None:
        self._samples = list(samples)
        self._deadline = deadline
        self._futures: list[tuple[int, str, Future[Judgement]]] = []

    def add(self, place: int, part: str, future: Future[Judgement]) -> None:
        self._futures.append((place, part, future))

    def collect(self) -> list[Sample]:
        """The samples with their verdicts, in the order in which they were submitted."""
        for place, part, future in self._futures:
            self.put(place, part, self._wait(future))
        self._futures = []
        return self._samples

    def _wait(self, future: Future[Judgement]) -> Judgement:
        try:
            return future.result(max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            return Judgement(None, status="deadline")

    def put(self, place: int, part: str, judgement: Judgement) -> None:
        sample = self._samples[place]
        changed = (
            {"accuracy": judgement}
            if part == "accuracy"
            else {"judged": {**sample.judged, part: judgement}}
        )
        self._samples[place] = dataclasses.replace(sample, **changed)


class Grader:
    """One for a run. `submit` and `finish` may be called from several threads."""

    def __init__(self, reward: Reward, limits: Limits = Limits()) -> None:
        self.reward = reward
        self.limits = limits
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._lanes: dict[str, Lanes] = {}

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End workers and sandboxes. What is still under way is not waited for."""
        with self._lock:
            for lanes in self._lanes.values():
                lanes.close()
            self._lanes = {}
            if self._pool is not None:
                self._pool.close()
            self._pool = None

    def submit(self, samples: Sequence[Sample]) -> Pending:
        """Start judging. Several submissions may be under way; each has its own deadline."""
        deadline = time.monotonic() + self.limits.deadline_s
        pending = Pending(samples, deadline)
        hard: list[tuple[int, dict[str, Any]]] = []
        failures = _Row()
        for place, sample in enumerate(samples):
            name = verifiers.name_of(sample.item, self.reward.verifiers)
            if name == "code":
                pending.add(place, "accuracy", self._run_code(sample, deadline))
            elif name == "math":
                found, quick = verifiers.quick_math(sample)
                if quick is None:
                    hard.append((place, verifiers.math_item(sample, found, self.limits.timeout_s)))
                else:
                    pending.put(place, "accuracy", quick)
            else:
                pending.put(place, "accuracy", verifiers.at_once(sample, name))
            if "judge" in self.reward.weights_of(sample.item):
                pending.add(place, "judge", self._ask_judge(sample, deadline, failures))
        if hard:
            self._run_math(pending, hard)
        return pending

    def finish(
        self, samples: Sequence[Sample], *, group: int = 1, with_steps: bool = True
    ) -> tuple[list[Sample], list[Grade]]:
        """Grades of samples that were collected, `group` of each prompt side by side.

        The samples come back with what custom functions said of them, for `count`. Without
        `with_steps` nobody is asked what a sample's steps are worth.
        """
        for name in self.reward.parts:
            if parts.is_custom(name):
                samples = self._call_custom(name, samples, group)
        if with_steps and self.reward.steps:  # last, so that it may see the others' verdicts
            samples = self._call_custom(self.reward.steps, samples, group)
        self.require_some_verdicts(samples)
        grades: list[Grade] = []
        for start in range(0, len(samples), group):
            grades += compose.combine(self.reward, samples[start : start + group])
        return list(samples), grades

    def later(self, work: Callable[[], Any]) -> Future[Any]:
        """Do work that waits for verdicts on a thread of its own, piece after piece."""
        return self._lanes_of("later", 1, None).call(work)

    def grade(self, samples: Sequence[Sample], *, group: int = 1) -> list[Grade]:
        """Submit, collect and finish."""
        return self.finish(self.submit(samples).collect(), group=group)[1]

    # what is slow

    def _run_math(self, pending: Pending, hard: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """All answers of a submission in one batch of the pool: equal ones are judged once."""
        futures: list[Future[Judgement]] = [Future() for _ in hard]
        for (place, _), future in zip(hard, futures, strict=True):
            pending.add(place, "accuracy", future)

        def work() -> None:
            outcomes = self._in_workers([item for _, item in hard])
            for future, outcome in zip(futures, outcomes, strict=True):
                future.set_result(verifiers.read_outcome(outcome, _read_math))

        self._lanes_of("math", self.limits.lanes, None).put(_all_or_error(work, futures))

    def _run_code(self, sample: Sample, deadline: float) -> Future[Judgement]:
        settings = dict(self.reward.settings_of("code"))
        lanes = self._lanes_of("code", self.limits.lanes, SandboxLane(settings))

        def work(backend: Any) -> Judgement:
            if time.monotonic() > deadline:
                return Judgement(None, status="deadline")
            return verifiers.judge_code(sample, backend=backend, **settings)

        return lanes.call(work)

    def _ask_judge(self, sample: Sample, deadline: float, failures: "_Row") -> Future[Judgement]:
        settings = self.reward.settings_of("judge")

        def work() -> Judgement:
            if time.monotonic() > deadline:
                return Judgement(None, status="deadline")
            if not verifiers.reference(sample.item):
                return Judgement(None, status="gold", detail="no answer to judge by")
            down = failures.length >= _JUDGE_IS_DOWN
            value = None if down else parts.ask_judge(sample, **settings)
            failures.add(value is None)
            if value is None:
                return Judgement(None, status="infra", detail=f"no verdict from {settings['url']}")
            return Judgement(value)

        return self._lanes_of("judge", _JUDGE_LANES, None).call(work)

    def _call_custom(self, name: str, samples: Sequence[Sample], group: int) -> list[Sample]:
        """One call for each sample, or for each group, in worker processes."""
        of_group = parts.of_group(parts.find(name))
        size = group if of_group else 1
        settings = dict(self.reward.settings_of(name))
        asked = [s for s in samples if self.reward.is_asked(name, s.item)]
        of_steps = name == self.reward.steps
        if not asked:
            return list(samples)
        items = [
            {
                "custom": name,
                "samples": [as_json(sample) for sample in asked[start : start + size]],
                "settings": settings,
                "of_group": of_group,
                "steps": of_steps,
            }
            for start in range(0, len(asked), size)
        ]
        judgements: list[Judgement] = []
        for outcome in self._in_workers(items):
            values = outcome.value if outcome.status == "ok" else [None] * size
            for value in values:
                judgement = _of_steps(value) if of_steps else Judgement(value)
                judgements.append(verifiers.read_outcome(outcome, lambda _, j=judgement: j))
        found = iter(judgements)
        return [
            dataclasses.replace(sample, judged={**sample.judged, name: next(found)})
            if self.reward.is_asked(name, sample.item)
            else sample
            for sample in samples
        ]

    def _in_workers(self, items: Sequence[dict[str, Any]]) -> list[Outcome]:
        with self._lock:
            if self._pool is None:
                self._pool = Pool(_TARGET, workers=self.limits.lanes)
            pool = self._pool
        limits = self.limits
        wall_s = _WALL_PER_CPU * limits.timeout_s
        try:
            return pool.map(items, timeout_s=wall_s, deadline_s=limits.deadline_s)
        except PoolError as error:
            raise UserError(f"the grader's worker processes: {error}") from error

    def _lanes_of(self, name: str, count: int, make_lane: Any) -> Lanes:
        with self._lock:
            if name not in self._lanes:
                self._lanes[name] = Lanes(name, count, make_lane)
            return self._lanes[name]

    def require_some_verdicts(self, samples: Sequence[Sample]) -> None:
        """Nothing can be learned, and nothing will, from a step that nobody could judge."""
        if len(samples) < _ALL_LOST:
            return
        columns: dict[str, list[Judgement]] = collections.defaultdict(list)
        for sample in samples:
            for name, judgement in {"accuracy": sample.accuracy, **sample.judged}.items():
                if self.reward.is_asked(name, sample.item):
                    columns[name].append(judgement)
        for name, column in columns.items():
            if len(column) >= _ALL_LOST and all(judgement.score is None for judgement in column):
                first = column[0]
                raise UserError(
                    f"reward part {name}: none of {len(column)} samples could be judged, first: "
                    f"{first.status} {first.detail}".rstrip()
                    + "; mend it, then the same command goes on from the last checkpoint"
                )


def count(samples: Iterable[Sample]) -> dict[str, float]:
    """What became of verdicts: unparsed, timeout, crash, …, cache hits, mean time in the queue."""
    judgements = [j for sample in samples for j in (sample.accuracy, *sample.judged.values())]
    statuses = collections.Counter(judgement.status for judgement in judgements)
    waits = [judgement.queue_s for judgement in judgements]
    counted = ("unparsed", "gold", "timeout", "crash", "deadline", "error", "infra")
    return {
        **{status: float(statuses[status]) for status in counted},
        "cache_hits": float(sum(judgement.cached for judgement in judgements)),
        "queue_s": math.fsum(waits) / max(len(waits), 1),
    }


def grade(samples: Sequence[Sample], reward: Reward, *, group: int = 1) -> list[Grade]:
    """For a few samples: with workers of its own."""
    with Grader(reward) as grader:
        return grader.grade(samples, group=group)


def _of_steps(value: list[list[Any]] | None) -> Judgement:
    if value is None:
        return Judgement(None)
    steps = tuple((int(end), reward) for end, reward in value)
    return Judgement(math.fsum(reward for _, reward in steps), steps=steps)


def _read_math(value: dict[str, Any]) -> Judgement:
    return verifiers.read_math(verifiers.grader.Verdict(**value))


def _all_or_error(work: Callable[[], None], futures: list[Future[Judgement]]) -> Callable[[], None]:
    """`work`, with what it raises given to everyone who waits for it."""

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the results are waited for
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    return run
