"""R1's output format, read by a scanner: one think part, one answer part, in order."""

import dataclasses

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
OPEN_ANSWER, CLOSE_ANSWER = "<answer>", "</answer>"
TAGS = (OPEN_THINK, CLOSE_THINK, OPEN_ANSWER, CLOSE_ANSWER)


@dataclasses.dataclass(frozen=True)
class Response:
    """The two parts of a well-formed response."""

    thoughts: str
    answer: str


def read(text: str, *, opened_by_prompt: bool = False) -> Response | None:
    """The parts of `<think>…</think><answer>…</answer>`, or None where the form is broken.

    Each tag once and in this order, only blanks outside. `opened_by_prompt`: the prompt ended with
    `<think>`, so the response starts inside it.
    """
    if opened_by_prompt:
        text = OPEN_THINK + text
    places = []
    for tag in TAGS:
        place = text.find(tag)
        if place < 0 or text.find(tag, place + 1) >= 0:
            return None
        places.append(place)
    if places != sorted(places):
        return None
    open_think, close_think, open_answer, close_answer = places
    outside = (
        text[:open_think],
        text[close_think + len(CLOSE_THINK) : open_answer],
        text[close_answer + len(CLOSE_ANSWER) :],
    )
    if any(part.strip() for part in outside):
        return None
    return Response(
        thoughts=text[open_think + len(OPEN_THINK) : close_think].strip(),
        answer=text[open_answer + len(OPEN_ANSWER) : close_answer].strip(),
    )


def r1_format(text: str, *, opened_by_prompt: bool = False, empty_thoughts: bool = False) -> float:
    """1.0 for R1's format with a non-empty answer and, unless allowed, non-empty thoughts."""
    response = read(text, opened_by_prompt=opened_by_prompt)
    if response is None or not response.answer:
        return 0.0
    return 1.0 if response.thoughts or empty_thoughts else 0.0
