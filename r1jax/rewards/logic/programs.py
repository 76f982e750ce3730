"""A closed mini-language: small programs over one list of integers, and their interpreter.

Programs are lists (they live in JSON), shown to the reader as numbered sentences. Nothing is ever
executed but the operations below, each with a bound on its result.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Numbers = list[int]
Program = Sequence[Sequence[Any]]
MAX_ITEMS = 64
MAX_VALUE = 10**12
MAX_STEPS = 2000


class TooMuchError(Exception):
    """A program left the bounds of the language."""


def _rotate(xs: Numbers, k: int) -> Numbers:
    return xs[k % len(xs) :] + xs[: k % len(xs)] if xs else []


def _differences(xs: Numbers) -> Numbers:
    return [b - a for a, b in itertools.pairwise(xs)]


# name: (operation, wording with the argument in braces, whether it has an argument)
OPERATIONS: Mapping[str, tuple[Callable[[Numbers, int], Numbers], str, bool]] = {
    "add": (lambda xs, k: [x + k for x in xs], "add {} to every number", True),
    "multiply": (lambda xs, k: [x * k for x in xs], "multiply every number by {}", True),
    "modulo": (
        lambda xs, k: [x % k for x in xs],
        "replace every number by its remainder on division by {} (never negative)",
        True,
    ),
    "reverse": (lambda xs, _: xs[::-1], "reverse the list", False),
    "sort": (lambda xs, _: sorted(xs), "sort the list in ascending order", False),
    "rotate": (_rotate, "move the first number to the end, {} times", True),
    "drop": (lambda xs, k: xs[k:], "remove the first {} numbers", True),
    "keep_even": (lambda xs, _: [x for x in xs if x % 2 == 0], "remove all odd numbers", False),
    "keep_above": (
        lambda xs, k: [x for x in xs if x > k],
        "remove all numbers that are at most {}",
        True,
    ),
    "sums": (
        lambda xs, _: list(itertools.accumulate(xs)),
        "replace every number by the sum of all numbers up to and including it",
        False,
    ),
    "differences": (
        lambda xs, _: _differences(xs),
        "replace the list by the differences of neighbours (each number minus the one before it)",
        False,
    ),
    "append_sum": (lambda xs, _: [*xs, sum(xs)], "append the sum of all numbers", False),
    "append_count": (lambda xs, _: [*xs, len(xs)], "append the count of numbers", False),
    "square_first": (
        lambda xs, _: [x * x if i == 0 else x for i, x in enumerate(xs)],
        "replace the first number, if there is one, by its square",
        False,
    ),
}


def run(program: Program, numbers: Sequence[int]) -> Numbers:
    """The list that a program leaves; raises `TooMuchError` outside the bounds."""
    xs, steps = _run(program, list(numbers), MAX_STEPS)
    del steps
    return xs


def _run(program: Program, xs: Numbers, steps: int) -> tuple[Numbers, int]:
    for name, argument, *body in program:
        if name == "repeat":
            for _ in range(argument):
                xs, steps = _run(body[0], xs, steps)
            continue
        if name == "if_longer":
            if len(xs) > argument:
                xs, steps = _run(body[0], xs, steps)
            continue
        steps -= 1
        xs = OPERATIONS[name][0](xs, argument)
        if steps < 0 or len(xs) > MAX_ITEMS or any(abs(x) > MAX_VALUE for x in xs):
            raise TooMuchError
    return xs, steps


def draw(rng: random.Random, *, lines: int, depth: int = 1) -> list[list[Any]]:
    """A random program of that many lines at its top."""
    program: list[list[Any]] = []
    for _ in range(lines):
        kind = rng.random()
        if depth and kind < 0.15:
            program.append(["repeat", rng.randint(2, 3), draw(rng, lines=2, depth=depth - 1)])
        elif depth and kind < 0.3:
            program.append(["if_longer", rng.randint(2, 5), draw(rng, lines=1, depth=depth - 1)])
        else:
            name = rng.choice(sorted(OPERATIONS))
            program.append([name, _argument(name, rng)])
    return program


def _argument(name: str, rng: random.Random) -> int:
    if not OPERATIONS[name][2]:
        return 0
    if name in ("rotate", "drop"):
        return rng.randint(1, 2)
    return rng.randint(3, 9) if name == "modulo" else rng.randint(2, 5)


def describe(program: Program, prefix: str = "") -> str:
    """The program as numbered sentences."""
    lines = []
    for number, (name, argument, *body) in enumerate(program, start=1):
        label = f"{prefix}{number}."
        if body:
            head = (
                f"do the following {argument} times:"
                if name == "repeat"
                else f"if the list has more than {argument} numbers:"
            )
            lines.append(f"{label} {head}\n{describe(body[0], '  ' + label)}")
        else:
            lines.append(f"{label} {OPERATIONS[name][1].format(argument)}")
    return "\n".join(lines)
