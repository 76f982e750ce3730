"""A run's files as arrays. What is missing or damaged becomes a line of text, not an error."""

import dataclasses
import json
import math
import pathlib
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from r1jax.errors import UserError
from r1jax.monitor import completions, doctor
from r1jax.monitor.doctor import Finding
from r1jax.monitor.records import is_number, is_step, json_lines, shorten
from r1jax.monitor.rollouts import Rollouts

LARGEST = 1e100  # beyond it a number is taken for a broken one
SAMPLED_STEPS = 8  # logged steps of completions kept from either end of a run
SAMPLES_PER_STEP = 32
DIAGNOSED_STEPS = 20_000  # of the end of a run, those that the doctor is shown


@dataclasses.dataclass(frozen=True)
class Table:
    """The records of one phase: rising steps, and a column per metric (NaN = not known)."""

    steps: np.ndarray
    columns: Mapping[str, np.ndarray]

    def get(self, name: str) -> np.ndarray | None:
        """A column that has at least one value."""
        column = self.columns.get(name)
        return column if column is not None and np.isfinite(column).any() else None


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion as logged."""

    step: int
    prompt: str
    completion: str
    reward: float | None
    correct: bool | None
    length: int | None
    parts: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Run:
    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    phases: Mapping[str, Table]
    early: tuple[Sample, ...]
    late: tuple[Sample, ...]
    rollouts: Rollouts
    problems: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def main(self) -> str:
        """The phase this run is about: RL, or else the one with the most records."""
        if "rl" in self.phases:
            return "rl"
        return max(self.phases, key=lambda name: len(self.phases[name].steps))

    @property
    def table(self) -> Table:
        return self.phases[self.main]

    def setting(self, path: str) -> Any:
        """A value of the config by its dotted name; None where it is unknown."""
        value: Any = self.config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def evaluation(self, when: str) -> dict[str, float]:
        """Numbers measured `before` or `after`, from the summary or else the metrics."""
        numbers = self.summary.get(when)
        if isinstance(numbers, dict):
            return {key: float(value) for key, value in numbers.items() if is_number(value)}
        table = self.phases.get(f"evaluate_{when}")
        if table is None:
            return {}
        return {
            name: float(column[-1])
            for name, column in table.columns.items()
            if np.isfinite(column[-1])
        }

    @property
    def control(self) -> bool:
        return self.setting("reward") == "random"

    @property
    def samples_per_step(self) -> int | None:
        counts = [self.setting(f"rl.{key}") for key in ("prompts_per_step", "samples_per_prompt")]
        return counts[0] * counts[1] if all(map(is_step, counts)) else None

    @property
    def steps_left(self) -> int:
        """RL or other main-phase steps that the config asks for and the metrics do not hold."""
        planned = self.setting(f"{self.main}.steps")
        done = int(self.table.steps[-1]) + 1
        return max(planned - done, 0) if is_step(planned) else 0


def read_run(workdir: pathlib.Path) -> Run:
    """Everything the report shows; a `UserError` where there is nothing to show."""
    path = workdir / "metrics.jsonl"
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; name the workdir of a run")
    if not path.is_file():
        raise UserError(f"{workdir}: holds no metrics.jsonl; name the workdir of a run")
    problems: list[str] = []
    phases = read_metrics(path, problems)
    if not phases:
        raise UserError(f"{path}: no metrics in it yet; try again when the run has logged a step")
    config = read_object(workdir / "config.json", problems)
    summary = read_object(workdir / "summary.json", problems)
    rollouts = Rollouts()
    early, late = read_samples(rollouts.watch(completions.read(workdir, problems)))
    if not rollouts.records:
        problems.append(f"there is no {completions.LINES}")
    name = config.get("name") or workdir.resolve().name
    findings = doctor.examine(read_rows(workdir))
    return Run(str(name), config, summary, phases, early, late, rollouts, tuple(problems), findings)


def read_rows(workdir: pathlib.Path, phase: str = "rl") -> list[dict[str, Any]]:
    """What the doctor watches of a phase's last steps, held-out accuracy put beside it."""
    rows: dict[int, dict[str, Any]] = {}
    held_out: list[tuple[float, Any]] = []
    path = workdir / "metrics.jsonl"
    for record in json_lines(path, []) if path.is_file() else ():
        where, step = record.get("phase"), record.get("step")
        if not isinstance(where, str) or not is_step(step):
            continue
        if where == phase:
            rows.pop(step, None)  # of a step logged twice the later record counts
            rows[step] = {"step": step, **{k: record[k] for k in doctor.WATCHED if k in record}}
            if len(rows) > DIAGNOSED_STEPS:
                del rows[next(iter(rows))]
        elif where.startswith("evaluate"):
            ends = {"evaluate_before": -math.inf, "evaluate_after": math.inf}
            held_out.append((ends.get(where, step), record.get("accuracy")))
    for stopped in workdir.glob(f"nonfinite_{phase}_*.npz"):  # such a step is not logged
        step = stopped.stem.rpartition("_")[2]
        if step.isdecimal() and int(step) > max(rows, default=-1):
            rows[int(step)] = {"step": int(step), "loss": None}
    ordered = [rows[step] for step in sorted(rows)]
    for when, accuracy in held_out if ordered else ():
        # Measured in the loop after so many steps: what the doctor sees there at the step before.
        before = [row for row in ordered if row["step"] < when]
        (before[-1] if before else ordered[0])[doctor.HELD_OUT] = accuracy
    return ordered


def read_metrics(path: pathlib.Path, problems: list[str]) -> dict[str, Table]:
    """A table per phase; of a step logged twice the later record counts."""
    steps: dict[str, list[int]] = {}
    columns: dict[str, dict[str, array]] = {}
    for record in json_lines(path, problems):
        phase, step = record.pop("phase", None), record.pop("step", None)
        if not isinstance(phase, str) or not is_step(step):
            continue
        rows = steps.setdefault(phase, [])
        known = columns.setdefault(phase, {})
        for name, value in record.items():
            if value is None:
                value = math.nan
            # Floats are nearly all there is, in files of millions; `make_table` minds infinities.
            elif not isinstance(value, float) and not is_number(value):
                continue
            column = known.get(name)
            if column is None:
                column = known[name] = array("d")
            if len(column) < len(rows):
                column.extend([math.nan] * (len(rows) - len(column)))
            column.append(value)
        rows.append(step)
    return {phase: make_table(rows, columns[phase]) for phase, rows in steps.items()}


def make_table(rows: list[int], columns: Mapping[str, array]) -> Table:
    steps = np.array(rows)
    # Stable: among equal steps the one logged last comes last, and that is the one kept.
    order = np.argsort(steps, kind="stable")
    order = order[np.append(np.diff(steps[order]) != 0, True)]
    full = {}
    for name, column in columns.items():
        padded = np.full(len(rows), math.nan)
        padded[: len(column)] = column
        full[name] = np.where(np.abs(padded) < LARGEST, padded, math.nan)[order]
    return Table(steps[order], full)


def read_samples(
    records: Iterable[Mapping[str, Any]],
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Completions of the first and the last quarter of the logged steps."""
    first: dict[int, list[Sample]] = {}
    last: deque[tuple[int, list[Sample]]] = deque(maxlen=SAMPLED_STEPS)
    for record in records:
        sample = make_sample(record)
        if sample is None:
            continue
        if not last or last[-1][0] != sample.step:
            last.append((sample.step, []))
            if len(first) < SAMPLED_STEPS:
                first.setdefault(sample.step, last[-1][1])
        if len(last[-1][1]) < SAMPLES_PER_STEP:
            last[-1][1].append(sample)
    if not last:
        return (), ()
    begin, end = min(first), max(step for step, _ in last)
    quarter = (end - begin) / 4
    early = [s for step, kept in first.items() if step <= begin + quarter for s in kept]
    late = [s for step, kept in reversed(last) if step >= end - quarter > begin for s in kept]
    return tuple(early), tuple(late)


def make_sample(record: Mapping[str, Any]) -> Sample | None:
    """None where the record lacks what a reader needs."""
    step, completion = record.get("step"), record.get("completion")
    if not is_step(step) or not isinstance(completion, str):
        return None
    reward, correct, length = (record.get(key) for key in ("reward", "correct", "length"))
    parts = record.get("parts")
    return Sample(
        step=step,
        prompt=shorten(str(record.get("prompt", ""))),
        completion=shorten(completion),
        reward=float(reward) if is_number(reward) else None,
        correct=correct if isinstance(correct, bool) else None,
        length=int(length) if is_number(length) else None,
        parts={
            str(name): float(value)
            for name, value in (parts.items() if isinstance(parts, dict) else ())
            if is_number(value)
        },
    )


def read_object(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        problems.append(f"there is no {path.name}")
        return {}
    try:
        value = json.loads(path.read_text(errors="replace"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        problems.append(f"{path.name} could not be read")
        return {}
    return value


def count_equal(samples: list[Sample]) -> list[tuple[Sample, int]]:
    """Samples without repeats, most frequent first, and how often each came."""
    counts: Counter[tuple[str, float | None]] = Counter()
    firsts: dict[tuple[str, float | None], Sample] = {}
    for sample in samples:
        key = (sample.completion, sample.reward)
        counts[key] += 1
        firsts.setdefault(key, sample)
    return [(firsts[key], count) for key, count in counts.most_common()]
