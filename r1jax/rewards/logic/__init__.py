"""Logic puzzles: generators that are the same for ever, and checkers that take any string.

`make(name, seed=…, index=…)` draws an item: `question`, one right `answer`, and what the checker
needs, all fit for JSON. `score(text, item)` is 1.0 or 0.0 in milliseconds, whatever the text; no
checker runs code or looks for the answer inside the text. `gym` adds items of reasoning-gym.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

from r1jax.rewards.logic import arithmetic, ciphers, code_io, exact, knights, zebra

Item = dict[str, Any]
Score = Callable[[str, Mapping[str, Any]], float]

PUZZLES: Mapping[str, tuple[Callable[..., Item], Score]] = {
    "24": (arithmetic.twenty_four, arithmetic.score),
    "countdown": (arithmetic.countdown, arithmetic.score),
    "caesar": (ciphers.caesar, ciphers.score),
    "vigenere": (ciphers.vigenere, ciphers.score),
    "substitution": (ciphers.substitution, ciphers.score),
    "predict_output": (code_io.predict_output, code_io.score),
    "predict_input": (code_io.predict_input, code_io.score),
    "knights_and_knaves": (knights.knights_and_knaves, knights.score),
    "zebra": (zebra.zebra, zebra.score),
}

SCORES: Mapping[str, Score] = {
    **{name: checker for name, (_, checker) in PUZZLES.items()},
    "integer": exact.score_integer,
    "word": exact.score_word,
}


def make(name: str, *, seed: int, index: int, **settings: int) -> Item:
    """The item at one place of the endless stream of a puzzle."""
    if name not in PUZZLES:
        raise ValueError(f"no such puzzle: {name!r}; there are {', '.join(PUZZLES)}")
    rng = random.Random(f"{name}/{seed}/{index}")
    return {**PUZZLES[name][0](rng, **settings), "puzzle": name}


def score(text: str, item: Mapping[str, Any]) -> float:
    """1.0 where the text's final answer solves the item, else 0.0."""
    return SCORES[item["puzzle"]](text, item)
