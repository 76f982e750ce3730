"""The questions of a config's files: split, and measured against the longest prompt."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from r1jax.config import Config, DataConfig
from r1jax.data import sources
from r1jax.data.sources import Questions
from r1jax.data.tasks import Item
from r1jax.errors import UserError
from r1jax.rewards import verifiers


@dataclasses.dataclass(frozen=True)
class Files:
    train: Questions
    held_out: Questions
    dropped: int  # too long

    @property
    def fingerprint(self) -> list[int]:
        return [self.train.fingerprint, self.held_out.fingerprint]

    def describe(self) -> str:
        """What a run says of them when it starts."""
        known = {item["question"] for item in self.train.items}
        both = sum(item["question"] in known for item in self.held_out.items)
        parts = [f"{len(self.train)} questions to train on", f"{len(self.held_out)} held out"]
        if self.dropped:
            parts.append(f"{self.dropped} dropped, their prompts are too long")
        if both:
            parts.append(f"{both} of those held out are trained on too")
        return "data: " + ", ".join(parts)


def read_files(config: Config, encode: Callable[[Item], Sequence[int]]) -> Files:
    """The questions to train on and those held out, none with a prompt that is too long."""
    data = config.data
    train = sources.read_questions(data.train)
    if data.eval:
        held_out = sources.read_questions(data.eval)
    else:
        train, held_out = sources.hold_out(train, data.held_out)
    for questions in (train, held_out):
        _require_judges(questions, config.grading.verifiers)
    fitting = [_fitting(questions, data, encode) for questions in (train, held_out)]
    dropped = len(train) + len(held_out) - sum(map(len, fitting))
    return Files(*fitting, dropped=dropped)


def _require_judges(questions: Questions, routes: Mapping[str, str]) -> None:
    """Before the first step, not at the first sample of a task that nobody knows."""
    for place, item in zip(questions.places, questions.items, strict=True):
        try:
            verifiers.name_of(item, routes)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error


def _fitting(
    questions: Questions, data: DataConfig, encode: Callable[[Item], Sequence[int]]
) -> Questions:
    most = data.max_prompt_tokens
    lengths = [len(encode(item)) for item in questions.items]
    if 0 in lengths:
        raise UserError(f"{questions.places[lengths.index(0)]}: its prompt has no tokens")
    too_long = [i for i, length in enumerate(lengths) if length > most]
    if too_long and data.too_long == "error":
        raise UserError(
            f"{questions.places[too_long[0]]}: its prompt has {lengths[too_long[0]]} tokens, and "
            f"{len(too_long)} of {len(questions)} have more than config.data.max_prompt_tokens="
            f"{most}: raise it to {max(lengths)}, or drop them with --config.data.too_long=drop"
        )
    if len(too_long) == len(questions):
        raise UserError(
            f"{questions.places[0]}: every prompt has more than config.data.max_prompt_tokens="
            f"{most} tokens: raise it"
        )
    return questions.take([i for i, length in enumerate(lengths) if length <= most])
