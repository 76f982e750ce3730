"""Countdown and the 24 game: reach a target from given numbers, each used exactly once."""

import itertools
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from r1jax.rewards.logic.answer import final_answer

_MAX_DIGITS = 9
_MAX_LENGTH = 200
_SPELLINGS = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\\left", ""),
    ("\\right", ""),
    ("×", "*"),
    ("·", "*"),
    ("⋅", "*"),
    ("∗", "*"),
    ("÷", "/"),
    ("∕", "/"),
    ("−", "-"),
    ("–", "-"),
    ("[", "("),
    ("]", ")"),
    ("$", ""),
)
_TOKEN = re.compile(r"\s*(\d+|[-+*/()=])")

Expression = tuple[Fraction, str]


def twenty_four(rng: random.Random) -> dict[str, Any]:
    """Four numbers from 1 to 13 that make 24."""
    while True:
        numbers = [rng.randint(1, 13) for _ in range(4)]
        solution = solve(numbers, 24)
        if solution is not None:
            return _item(numbers, 24, solution)


def countdown(
    rng: random.Random, *, count: int = 4, largest: int = 50, highest: int = 999
) -> dict[str, Any]:
    """`count` numbers and a target that some order of operations in whole numbers reaches."""
    while True:
        numbers = [rng.randint(1, largest) for _ in range(count)]
        value, text = Fraction(numbers[0]), str(numbers[0])
        for number in rng.sample(numbers[1:], count - 1):
            results = [
                r
                for r in _combine((value, text), (Fraction(number), str(number)))
                if r[0].denominator == 1 and 0 < r[0] <= highest
            ]
            if not results:
                break
            value, text = rng.choice(results)
        else:
            return _item(numbers, int(value), text)


def _item(numbers: list[int], target: int, solution: str) -> dict[str, Any]:
    listed = ", ".join(map(str, numbers))
    question = (
        f"Make {target} from the numbers {listed}. Use each number exactly once, with +, -, *, / "
        "and brackets only. Answer with the expression."
    )
    return {"question": question, "answer": solution, "numbers": numbers, "target": target}


def score(answer: str, item: Mapping[str, Any]) -> float:
    """1.0 for an expression over exactly the given numbers whose exact value is the target."""
    text = final_answer(answer)
    parsed = None if text is None else evaluate(text, target=item["target"])
    if parsed is None:
        return 0.0
    value, used = parsed
    return float(value == item["target"] and Counter(used) == Counter(item["numbers"]))


def evaluate(text: str, *, target: int | None = None) -> tuple[Fraction, list[int]] | None:
    """(exact value, numbers used) of a sum with + - * / and brackets, or None.

    `= target` may follow. No powers, decimals or calls: nothing but what the game allows.
    """
    for spelling, plain in _SPELLINGS:
        text = text.replace(spelling, plain)
    text = text.strip().rstrip(".").strip()
    if len(text) > _MAX_LENGTH:
        return None
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or not match[1].isascii() or len(match[1]) > _MAX_DIGITS:
            return None
        tokens.append(match[1])
        place = match.end()
    if "=" in tokens:
        if target is None or tokens[-2:] != ["=", str(target)]:
            return None
        tokens = tokens[:-2]
    used: list[int] = []
    read = _sum(tokens, 0, used)
    return None if read is None or read[1] != len(tokens) else (read[0], used)


Read = tuple[Fraction, int] | None  # a value and the place behind it


def _sum(tokens: Sequence[str], place: int, used: list[int]) -> Read:
    # A sign may open a sum ("-6 + 10"). With positive numbers it reaches nothing that subtraction
    # does not, so no rule of the game is bent.
    signed = place < len(tokens) and tokens[place] == "-"
    read = _product(tokens, place + signed, used)
    if read is not None and signed:
        read = -read[0], read[1]
    while read is not None and read[1] < len(tokens) and tokens[read[1]] in "+-":
        left, place = read
        right = _product(tokens, place + 1, used)
        if right is None:
            return None
        value = left + right[0] if tokens[place] == "+" else left - right[0]
        read = value, right[1]
    return read


def _product(tokens: Sequence[str], place: int, used: list[int]) -> Read:
    read = _atom(tokens, place, used)
    while read is not None and read[1] < len(tokens) and tokens[read[1]] in "*/":
        left, place = read
        right = _atom(tokens, place + 1, used)
        if right is None or (tokens[place] == "/" and not right[0]):
            return None
        value = left * right[0] if tokens[place] == "*" else left / right[0]
        read = value, right[1]
    return read


def _atom(tokens: Sequence[str], place: int, used: list[int]) -> Read:
    if place >= len(tokens):
        return None
    if tokens[place].isdigit():
        used.append(int(tokens[place]))
        return Fraction(used[-1]), place + 1
    if tokens[place] != "(":
        return None
    read = _sum(tokens, place + 1, used)
    if read is None or read[1] >= len(tokens) or tokens[read[1]] != ")":
        return None
    return read[0], read[1] + 1


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An expression that reaches the target, or None where none does."""
    return _search([(Fraction(number), str(number)) for number in numbers], target)


def _search(expressions: list[Expression], target: int) -> str | None:
    if len(expressions) == 1:
        value, text = expressions[0]
        return text if value == target else None
    for first, second in itertools.combinations(range(len(expressions)), 2):
        rest = [e for i, e in enumerate(expressions) if i not in (first, second)]
        for combined in _combine(expressions[first], expressions[second]):
            found = _search([*rest, combined], target)
            if found is not None:
                return found
    return None


def _combine(left: Expression, right: Expression) -> list[Expression]:
    (a, x), (b, y) = left, right
    combined = [
        (a + b, f"({x} + {y})"),
        (a - b, f"({x} - {y})"),
        (b - a, f"({y} - {x})"),
        (a * b, f"({x} * {y})"),
    ]
    if b:
        combined.append((a / b, f"({x} / {y})"))
    if a:
        combined.append((b / a, f"({y} / {x})"))
    return combined
