"""What a reward part may look at: one response, and what has been found out about it so far."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.rewards import format as response_format

Item = Mapping[str, Any]
# (characters of the response up to the step's end, its reward), in their order
Steps = Sequence[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a verifier, a judge or a custom function says. `score` None masks the sample.

    `status`: ok; unparsed (an answer, but none that can be read); gold (the reference fails);
    timeout, crash, deadline, error, infra (the grader fails). The last five and gold have no score.
    """

    score: float | None
    correct: bool = False
    answer: str | None = None
    status: str = "ok"
    detail: str = ""
    cached: bool = False
    queue_s: float = 0.0
    steps: Steps = ()  # of a function that rewards steps; `score` is then their sum


NOT_JUDGED = Judgement(None, status="error", detail="not judged yet")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One response (without its EOS). `key` names the sample in the whole run."""

    text: str
    item: Item
    key: tuple[int, ...] = (0,)
    tokens: Sequence[int] = ()  # of the response, the ending EOS included
    finished: bool = True  # False = cut at the length limit
    opened_by_prompt: bool = False  # the prompt ended with <think>
    accuracy: Judgement = NOT_JUDGED
    judged: Mapping[str, Judgement] = dataclasses.field(default_factory=dict)  # of slow parts

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def correct(self) -> bool:
        return self.accuracy.correct

    @property
    def response(self) -> response_format.Response | None:
        """Thoughts and answer of R1's format; None where it is broken."""
        return response_format.read(self.text, opened_by_prompt=self.opened_by_prompt)


def as_json(sample: Sample) -> dict[str, Any]:
    """For a worker process; the item must be plain JSON values, as it is in any data file."""
    fields = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    return fields | {
        "item": dict(sample.item),
        "tokens": [int(token) for token in sample.tokens],
        "accuracy": dataclasses.asdict(sample.accuracy),
        "judged": {name: dataclasses.asdict(value) for name, value in sample.judged.items()},
    }


def from_json(fields: Mapping[str, Any]) -> Sample:
    return Sample(
        **{
            **fields,
            "key": tuple(fields["key"]),
            "accuracy": Judgement(**fields["accuracy"]),
            "judged": {name: Judgement(**value) for name, value in fields["judged"].items()},
        }
    )
