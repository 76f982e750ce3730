"""The verdict in a judge's reply. Only a JSON object that carries the request's tag counts."""

import json
import re
from collections.abc import Collection

CORRECTNESS = {"correct": 1.0, "incorrect": 0.0}
PREFERENCE = {"A>>B": 2.0, "A>B": 1.0, "A=B": 0.0, "B>A": -1.0, "B>>A": -2.0}

# Verdicts are flat objects, so nothing nested has to be read, and the work is linear.
_OBJECT = re.compile(r"\{[^{}]{1,300}\}")


def parse(reply: str, *, tag: str, allowed: Collection[str]) -> str | None:
    """The one verdict of a reply; None without one, with another word, or with two at odds.

    A judge that quotes the text under test may repeat a forged verdict, but not with the tag, which
    the text cannot know; what it says in its own thoughts does not count either.
    """
    told = set()
    for match in _OBJECT.finditer(reply.rpartition("</think>")[2]):
        try:
            data = json.loads(match.group())
        except ValueError:
            continue
        if isinstance(data, dict) and data.get("tag") == tag:
            told.add(str(data.get("verdict")))
    if len(told) != 1:
        return None
    verdict = told.pop()
    return verdict if verdict in allowed else None
