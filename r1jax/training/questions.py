"""The questions of a config's files: split, and measured against the longest prompt."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from r1jax.config import Config, DataConfig
from r1jax.data import sources
from r1jax.data.mixture import Mixture
from r1jax.data.sources import Questions
from r1jax.data.tasks import Item
from r1jax.errors import UserError
from r1jax.rewards import verifiers


@dataclasses.dataclass(frozen=True)
class Files:
    train: Mixture
    held_out: Questions
    too_long: int  # prompts, that were dropped or truncated
    truncated: bool

    @property
    def fingerprint(self) -> list[int]:
        return [*(part.fingerprint for part in self.train.parts), self.held_out.fingerprint]

    @functools.cached_property
    def tasks(self) -> tuple[str, ...]:
        """The names under which items are judged and counted, where there are several."""
        items = (item for part in self.train.parts for item in part.items)
        return tuple(sorted({verifiers.task_of(item) for item in items}))

    def describe(self) -> str:
        """What a run says of them when it starts."""
        known = {item["question"] for part in self.train.parts for item in part.items}
        both = sum(item["question"] in known for item in self.held_out.items)
        parts = [f"{len(self.train)} questions to train on", f"{len(self.held_out)} held out"]
        if self.too_long:
            done = "truncated on the left" if self.truncated else "dropped"
            parts.append(f"{self.too_long} {done}, their prompts are too long")
        if both:
            parts.append(f"{both} of those held out are trained on too")
        return "data: " + ", ".join(parts)


def read_files(config: Config, encode: Callable[[Item], Sequence[int]]) -> Files:
    """The questions to train on and those held out, none with a prompt that is too long."""
    data = config.data
    weights = data.mix or {data.train: 1.0}
    parts = [sources.read_questions(source) for source in weights]
    if data.eval:
        held_out = sources.read_questions(data.eval)
    else:
        # Of all parts together: a question that is in two of them must not lie on both sides.
        whole = Questions(*(sum((tuple(getattr(p, f)) for p in parts), ()) for f in _FIELDS))
        _, held_out = sources.hold_out(whole, data.held_out)
        held = {item["question"] for item in held_out.items}
        parts = [_without(part, held) for part in parts]
    for questions in (*parts, held_out):
        _require_judges(questions, config.grading.verifiers)
    fitting = [_fitting(questions, data, encode) for questions in (*parts, held_out)]
    *train, measured = [questions for questions, _ in fitting]
    mixture = Mixture(tuple(train), tuple(weights.values()))
    too_long = sum(count for _, count in fitting)
    return Files(mixture, measured, too_long, truncated=data.too_long == "truncate")


_FIELDS = ("items", "places")


def _without(questions: Questions, held: set[str]) -> Questions:
    kept = [i for i, item in enumerate(questions.items) if item["question"] not in held]
    if not kept:
        raise UserError(
            f"{questions.places[0]}: all of its questions are held out; lower data.held_out, or "
            "name data.eval"
        )
    return questions.take(kept)


def _require_judges(questions: Questions, routes: Mapping[str, str]) -> None:
    """Before the first step, not at the first sample of a task that nobody knows."""
    for place, item in zip(questions.places, questions.items, strict=True):
        try:
            verifiers.name_of(item, routes)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error


def _fitting(
    questions: Questions, data: DataConfig, encode: Callable[[Item], Sequence[int]]
) -> tuple[Questions, int]:
    """(the questions that a run asks, how many were too long). `encode` gives whole prompts."""
    most = data.max_prompt_tokens
    lengths = [len(encode(item)) for item in questions.items]
    if 0 in lengths:
        raise UserError(f"{questions.places[lengths.index(0)]}: its prompt has no tokens")
    too_long = [i for i, length in enumerate(lengths) if length > most]
    if too_long and data.too_long == "error":
        raise UserError(
            f"{questions.places[too_long[0]]}: its prompt has {lengths[too_long[0]]} tokens, and "
            f"{len(too_long)} of {len(questions)} have more than config.data.max_prompt_tokens="
            f"{most}: raise it to {max(lengths)}, or drop them with --config.data.too_long=drop, "
            "or keep their last tokens with =truncate"
        )
    if data.too_long == "truncate":
        return questions, len(too_long)
    if len(too_long) == len(questions):
        raise UserError(
            f"{questions.places[0]}: every prompt has more than config.data.max_prompt_tokens="
            f"{most} tokens: raise it"
        )
    kept = questions.take([i for i, length in enumerate(lengths) if length <= most])
    return kept, len(too_long)
