"""A reward from named, weighted parts.

    reward = sum of weight * part        a part that is None masks the sample
    parts in `when_correct` count 0, and cannot mask, where the answer is wrong

`Reward` says which parts, with which weights and settings; `combine` makes grades of samples that
have been judged; `grader.Grader` judges and combines, and `grade` does so for one response.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards import parts as parts_lib
from r1jax.rewards import verifiers
from r1jax.rewards.parts import PARTS
from r1jax.rewards.samples import Item, Sample, Steps

__all__ = ["PARTS", "Grade", "Item", "Reward", "Sample", "combine"]


@dataclasses.dataclass(frozen=True)
class Grade:
    """One response, judged. `reward` None = the grader could not judge: learn nothing from it."""

    reward: float | None
    correct: bool
    reasoned: bool
    answer: str | None
    parts: Mapping[str, float]  # before their weights; NaN where one could not be had
    steps: Steps = ()  # with `Reward.steps`


@dataclasses.dataclass(frozen=True)
class Reward:
    """What is paid for. Checked when made: a `UserError` of one line for what cannot work."""

    weights: Mapping[str, float]
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    when_correct: Sequence[str] = ()
    verifiers: Mapping[str, str] = dataclasses.field(default_factory=dict)  # task -> verifier
    by_task: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    steps: str = ""  # import path of a function of a sample that rewards its steps: `Steps`

    def __post_init__(self) -> None:
        for where, weights in [
            ("reward_weights", self.weights),
            *((f"task_rewards.{task}", weights) for task, weights in self.by_task.items()),
        ]:
            if not weights:
                raise UserError(f"{where}={{}}: it is empty; give at least one part a weight")
        for name in self.parts:
            parts_lib.check(name, self.settings.get(name, {}))
        if self.steps:
            parts_lib.check_steps(self.steps, self.settings.get(self.steps, {}))
        for name, settings in self.settings.items():
            if name in verifiers.KNOWN:
                verifiers.check_settings(name, settings)
            elif name not in self.parts and name != self.steps:
                raise UserError(f"grading.settings.{name}: {_no_such_part(name, self.parts)}")
        for name in self.when_correct:
            if name not in self.parts:
                raise UserError(f"grading.when_correct: {_no_such_part(name, self.parts)}")
        for task, name in self.verifiers.items():
            if name not in verifiers.KNOWN:
                known = ", ".join(verifiers.KNOWN)
                raise UserError(f"grading.verifiers.{task}={name!r}: must be one of {known}")

    @property
    def parts(self) -> tuple[str, ...]:
        """Of all tasks."""
        everyone = [self.weights, *self.by_task.values()]
        return tuple(dict.fromkeys(name for weights in everyone for name in weights))

    def weights_of(self, item: Item) -> Mapping[str, float]:
        """Those of its task, where that has its own."""
        return self.by_task.get(verifiers.task_of(item), self.weights)

    def is_asked(self, name: str, item: Item) -> bool:
        """Whether a function has a say on an item."""
        return name == self.steps or name in self.weights_of(item)

    def replaced_by(self, weights: Mapping[str, float]) -> "Reward":
        """Other parts, judged as these: the control beside a reward."""
        kept = {name: of for name, of in self.settings.items() if name in verifiers.KNOWN}
        return Reward(weights, kept, (), self.verifiers)

    def settings_of(self, name: str) -> Mapping[str, Any]:
        return self.settings.get(name, {})


def _no_such_part(name: str, parts: Sequence[str]) -> str:
    return f"{name} has no weight in reward_weights; there are {', '.join(parts)}"


Values = Mapping[str, float | None]


def combine(reward: Reward, samples: Sequence[Sample]) -> list[Grade]:
    """The grades of all samples of one prompt, from verdicts that are in."""
    weights = reward.weights_of(samples[0].item)
    columns = {name: _column(reward, name, samples) for name in weights}
    absent, everyone = dict.fromkeys(reward.parts, math.nan), range(len(samples))
    found = [{name: values[place] for name, values in columns.items()} for place in everyone]
    return [
        _grade(weights, sample, values, absent, reward.steps)
        for sample, values in zip(samples, found, strict=True)
    ]


def _column(reward: Reward, name: str, samples: Sequence[Sample]) -> list[float | None]:
    """One part's value for each sample."""
    part, settings = parts_lib.find(name), reward.settings_of(name)
    if parts_lib.is_custom(name):  # a worker process has called it
        values: Sequence[Any] = [sample.judged[name].score for sample in samples]
    elif parts_lib.of_group(part):
        values = part(samples, **settings)
    else:
        values = [part(sample, **settings) for sample in samples]
    gated = name in reward.when_correct
    return [
        0.0 if gated and not sample.correct else _finite(value)
        for sample, value in zip(samples, values, strict=True)
    ]


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _grade(
    weights: Mapping[str, float],
    sample: Sample,
    values: Values,
    absent: Mapping[str, float],
    steps: str,
) -> Grade:
    total, masked = 0.0, False
    for name, weight in weights.items():
        value = values[name]
        masked |= value is None
        total += weight * (value or 0.0)
    response = sample.response
    of_steps = sample.judged.get(steps)
    masked |= of_steps is not None and of_steps.score is None
    return Grade(
        reward=None if masked else total,
        correct=sample.correct,
        reasoned=response is not None and bool(response.thoughts),
        answer=sample.accuracy.answer,
        parts={
            **absent,
            **{name: math.nan if value is None else value for name, value in values.items()},
        },
        steps=() if of_steps is None else of_steps.steps,
    )
