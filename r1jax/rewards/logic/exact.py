"""Checkers for answers that are one integer or one phrase."""

import re
from collections.abc import Mapping
from typing import Any

from r1jax.rewards.logic.answer import final_answer

_INTEGER = re.compile(r"[-+−]?\d{1,40}(?:,\d{3}){0,12}", re.ASCII)


def score_integer(answer: str, item: Mapping[str, Any]) -> float:
    """1.0 for exactly the integer `item["answer"]`, with or without commas at the thousands."""
    text = final_answer(answer)
    told = None if text is None else read_integer(text)
    return float(told is not None and told == int(item["answer"]))


def read_integer(text: str) -> int | None:
    text = text.strip(" \t\n.$*`").replace("{,}", ",")
    if _INTEGER.fullmatch(text) is None:
        return None
    return int(text.replace(",", "").replace("−", "-"))


def score_word(answer: str, item: Mapping[str, Any]) -> float:
    """1.0 for exactly the phrase `item["answer"]`; case, quotes and a full stop do not matter."""
    text = final_answer(answer)
    return float(text is not None and _plain(text) == _plain(item["answer"]) != "")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .\"'`*“”‘’")
