"""Running sum mod 10, and parity: too long to see at a glance, easy one step at a time."""

import numpy as np

from r1jax.data.tasks.base import Item, Task


def running_sum(size: int = 8) -> Task:
    """The sum mod 10 of `size` digits; worked out, the chain is the partial sums."""
    return _running("running_sum", size, 10)


def parity(size: int = 12) -> Task:
    """The parity of `size` bits; worked out, the chain is the running parity."""
    return _running("parity", size, 2)


def _running(name: str, size: int, base: int) -> Task:
    def draw(rng: np.random.Generator) -> Item:
        digits = rng.integers(0, base, size)
        return {"question": "".join(map(str, digits)), "answer": str(int(digits.sum() % base))}

    def working(item: Item, rng: np.random.Generator) -> tuple[str, str]:
        del rng  # there is one way to work it out
        sums = np.cumsum([int(digit) for digit in item["question"]]) % base
        return "".join(map(str, sums)), item["answer"]

    def guess(item: Item, rng: np.random.Generator) -> str:
        del item
        return str(rng.integers(0, base))

    def is_correct(answer: str, item: Item) -> bool:
        return answer.strip() == item["answer"]

    symbols = tuple(str(digit) for digit in range(base))
    return Task(name, symbols, draw, working, guess, is_correct)
