"""A reward from named, weighted parts."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

from r1jax.data.tasks import Item, Task
from r1jax.rewards import format as response_format


@dataclasses.dataclass(frozen=True)
class Grade:
    """One response, judged. `reward` None = the grader could not judge: learn nothing from it."""

    reward: float | None
    correct: bool
    reasoned: bool
    answer: str | None
    parts: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a reward part may look at. `key` names the sample in the whole run."""

    text: str
    item: Item
    key: tuple[int, ...]
    response: response_format.Response | None
    correct: bool
    opened_by_prompt: bool


def _accuracy(sample: Sample) -> float:
    return float(sample.correct)


def _format(sample: Sample) -> float:
    # An empty think part is in form when the prompt opened it: only correctness may make
    # reasoning worth its length.
    return response_format.r1_format(
        sample.text,
        opened_by_prompt=sample.opened_by_prompt,
        empty_thoughts=sample.opened_by_prompt,
    )


def _random(sample: Sample) -> float:
    """A coin that knows nothing of the text: the control every learning claim needs."""
    digest = hashlib.blake2b(repr(sample.key).encode(), digest_size=1).digest()
    return float(digest[0] & 1)


PARTS: Mapping[str, Callable[[Sample], float]] = {
    "accuracy": _accuracy,
    "format": _format,
    "random": _random,
}


def grade(
    text: str,
    item: Item,
    *,
    task: Task,
    weights: Mapping[str, float],
    opened_by_prompt: bool,
    key: tuple[int, ...],
) -> Grade:
    """Judge one response (without its EOS)."""
    response = response_format.read(text, opened_by_prompt=opened_by_prompt)
    correct = response is not None and task.is_correct(response.answer, item)
    sample = Sample(text, item, key, response, correct, opened_by_prompt)
    parts = {name: PARTS[name](sample) for name in weights}
    return Grade(
        reward=sum(weights[name] * value for name, value in parts.items()),
        correct=correct,
        reasoned=response is not None and bool(response.thoughts),
        answer=None if response is None else response.answer,
        parts=parts,
    )
