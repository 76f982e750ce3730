"""Mini-Countdown with retries: make the target from three numbers, each used once.

The base model's corpus tries random ways with correct arithmetic, checks each, and after a failure
either gives up or tries again; so searching longer pays, and can be learned from rewards alone.
"""

import ast
import operator

import numpy as np

from r1jax.data.tasks.base import Item, Task

LARGEST = 6
HIGHEST_RESULT = 99
MAX_ATTEMPTS = 5
RETRY_PROBABILITY = 0.3
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_AST_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}

_ALPHABET = set("0123456789+-*() ")

Attempt = tuple[list[int], list[str], list[int]]  # numbers in order, operations, running results


def countdown(size: int = 3) -> Task:
    """`size` numbers from 1 to 6, the operations + - *, taken from left to right."""

    def draw(rng: np.random.Generator) -> Item:
        numbers = [int(n) for n in rng.integers(1, LARGEST + 1, size)]
        results = _attempt(numbers, rng)[2]
        question = " ".join(map(str, numbers)) + f" = {results[-1]} "
        return {"question": question, "numbers": numbers, "target": results[-1]}

    def working(item: Item, rng: np.random.Generator) -> tuple[str, str]:
        lines = []
        for attempt_number in range(MAX_ATTEMPTS):
            attempt = _attempt(item["numbers"], rng)
            solved = attempt[2][-1] == item["target"]
            lines.append(_describe(attempt, solved))
            last = attempt_number == MAX_ATTEMPTS - 1
            if solved or last or rng.random() >= RETRY_PROBABILITY:
                break
        return " ".join(lines), _expression(attempt)

    def guess(item: Item, rng: np.random.Generator) -> str:
        return _expression(_attempt(item["numbers"], rng))

    numbers = tuple(str(n) for n in range(HIGHEST_RESULT + 1))
    symbols = (*numbers, "+", "-", "*", "=", "(", ")", ",", "OK", "NO")
    return Task("countdown", symbols, draw, working, guess, is_correct, joiner=" ")


def _attempt(numbers: list[int], rng: np.random.Generator) -> Attempt:
    """A random order and random operations whose every result lies in 0..99."""
    while True:
        order = [int(n) for n in rng.permutation(numbers)]
        operations = [str(op) for op in rng.choice(list(_OPERATIONS), len(numbers) - 1)]
        results = [order[0]]
        for name, number in zip(operations, order[1:], strict=True):
            results.append(_OPERATIONS[name](results[-1], number))
        if all(0 <= result <= HIGHEST_RESULT for result in results):
            return order, operations, results


def _describe(attempt: Attempt, solved: bool) -> str:
    order, operations, results = attempt
    steps = [
        f"{results[i]} {operations[i]} {order[i + 1]} = {results[i + 1]}"
        for i in range(len(operations))
    ]
    return " , ".join(steps) + (" OK" if solved else " NO")


def _expression(attempt: Attempt) -> str:
    order, operations, _ = attempt
    text = str(order[0])
    for i, (name, number) in enumerate(zip(operations, order[1:], strict=True)):
        left = f"( {text} )" if i else text
        text = f"{left} {name} {number}"
    return text


def is_correct(answer: str, item: Item) -> bool:
    """Uses each number once and comes to the target; any other string is just wrong."""
    result = evaluate(answer)
    if result is None:
        return False
    value, used = result
    return value == item["target"] and sorted(used) == sorted(item["numbers"])


def evaluate(text: str, limit: int = 200) -> tuple[int, list[int]] | None:
    """(value, numbers used) of a sum of integers with + - * and brackets; None for anything else.

    The syntax tree is walked, never evaluated, and no number may have more than nine digits, so no
    answer can cost more than its own length.
    """
    if len(text) > limit or not set(text) <= _ALPHABET:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    used: list[int] = []

    def walk(node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant):
            if type(node.value) is not int or node.value > 999_999_999:
                return None
            used.append(node.value)
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _AST_OPERATIONS:
            left, right = walk(node.left), walk(node.right)
            if left is None or right is None:
                return None
            return _AST_OPERATIONS[type(node.op)](left, right)
        return None

    value = walk(tree)
    return None if value is None else (value, used)
