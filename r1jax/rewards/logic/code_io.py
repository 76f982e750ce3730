"""Predict the output of a small program, or an input that gives a certain output."""

import random
import re
from collections.abc import Mapping
from typing import Any

from r1jax.rewards.logic import programs
from r1jax.rewards.logic.answer import final_answer

_LIMIT = 99  # inputs are integers from -99 to 99
_MAX_INPUT = 8
_LIST = re.compile(r"\[ ?(?:[-+−]?\d{1,13}(?: ?, ?[-+−]?\d{1,13})* ?)?\]", re.ASCII)


def predict_output(rng: random.Random) -> dict[str, Any]:
    """What does this program make of this list?"""
    program, numbers, output = _draw(rng)
    question = (
        f"A program starts with the list {numbers} and does this:\n{programs.describe(program)}\n"
        "Which list is left? Answer with the list in square brackets."
    )
    return {
        "question": question,
        "answer": str(output),
        "kind": "output",
        "program": program,
        "output": output,
    }


def predict_input(rng: random.Random) -> dict[str, Any]:
    """Which list makes this program end with that one? Any that does is right."""
    program, numbers, output = _draw(rng)
    question = (
        f"A program starts with a list and does this:\n{programs.describe(program)}\n"
        f"At the end the list is {output}. Find a list of 1 to {_MAX_INPUT} integers from -{_LIMIT}"
        f" to {_LIMIT} that it may have started with. Answer with the list in square brackets."
    )
    return {
        "question": question,
        "answer": str(numbers),
        "kind": "input",
        "program": program,
        "output": output,
    }


def _draw(rng: random.Random) -> tuple[list[list[Any]], list[int], list[int]]:
    """A program, an input and what it gives: neither nothing nor the input again."""
    while True:
        program = programs.draw(rng, lines=rng.randint(2, 5))
        numbers = [rng.randint(-9, 20) for _ in range(rng.randint(3, 6))]
        try:
            output = programs.run(program, numbers)
        except programs.TooMuchError:
            continue
        if output and output != numbers and max(map(abs, output)) < 10_000:
            return program, numbers, output


def score(answer: str, item: Mapping[str, Any]) -> float:
    """1.0 for the output itself, or for any allowed input from which the program comes to it."""
    text = final_answer(answer)
    numbers = None if text is None else read_list(text)
    if numbers is None:
        return 0.0
    if item["kind"] == "output":
        return float(numbers == item["output"])
    if not 1 <= len(numbers) <= _MAX_INPUT or any(abs(x) > _LIMIT for x in numbers):
        return 0.0
    try:
        return float(programs.run(item["program"], numbers) == item["output"])
    except programs.TooMuchError:
        return 0.0


def read_list(text: str) -> list[int] | None:
    """The integers of a text that is one bracketed list and nothing else."""
    # Blanks between digits must stay: "1 2" is no number.
    text = " ".join(text.replace("\\,", "").replace("\\", "").split()).strip(" .`$*")
    if _LIST.fullmatch(text) is None:
        return None
    inside = text[1:-1].strip().replace("−", "-")
    return [int(part) for part in inside.split(",")] if inside else []
