"""Several sets of questions in one stream: weights, and a curriculum by pass rate.

    place of the stream ──▶ which set, by weight ──▶ which place of that set's own stream

Every block of places has each set the same number of times, in an order of its own; each set has
its epochs for itself. All of it is a function of seed and place: a cursor is one number.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from r1jax.data.sources import Questions, place_in_epoch
from r1jax.data.tasks.base import SPLITS, Item
from r1jax.errors import UserError

BLOCK = 1024  # weights hold to one in so many

_IN_BLOCK, _SKIPPED = 1, 2  # what randomness is for, besides the order of an epoch


@dataclasses.dataclass(frozen=True)
class Mixture:
    parts: tuple[Questions, ...]
    weights: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def number(self, *, seed: int, place: int) -> int:
        """The question at a place of the stream, by its number among those of all parts."""
        if len(self.parts) == 1:
            part, index = 0, place
        else:
            block, within = divmod(place, BLOCK)
            counts = shares(self.weights)
            order, ranks = _block(counts, seed, block)
            part = int(order[within])
            index = block * counts[part] + int(ranks[within])
        before = sum(len(of) for of in self.parts[:part])
        return before + place_in_epoch(
            len(self.parts[part]), seed=seed, split="train", index=index, part=part
        )

    def item(self, number: int) -> Item:
        for questions in self.parts:
            if number < len(questions):
                return questions.items[number]
            number -= len(questions)
        raise IndexError(number)


def shares(weights: Sequence[float]) -> tuple[int, ...]:
    """How many places of a block each part has: by largest remainder, none without one."""
    exact = np.array(weights) / np.sum(weights) * (BLOCK - len(weights))
    counts = np.floor(exact).astype(int) + 1
    largest = np.argsort(np.floor(exact) - exact, kind="stable")
    counts[largest[: BLOCK - counts.sum()]] += 1
    return tuple(counts.tolist())


@functools.lru_cache(maxsize=4)
def _block(counts: tuple[int, ...], seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(which part each place of a block belongs to, how many of that part come before it there)"""
    rng = np.random.default_rng([seed, SPLITS["train"], block, _IN_BLOCK, 0, 1])
    order = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    ranks = np.zeros(len(order), int)
    for part, count in enumerate(counts):
        ranks[order == part] = np.arange(count)
    return order, ranks


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Which questions are passed over, by the share of right answers when they were last sampled.

    retire: those of `retire_at` or more (ScaleRL 2510.13786: .9). priority: each with a probability
    of its share, so that it is drawn in proportion to 1 - share (Kimi k1.5 2501.12599).
    """

    mode: str = "none"
    retire_at: float = 0.9

    def takes(self, rate: float | None, *, seed: int, place: int) -> bool:
        if rate is None or self.mode == "none":
            return True
        if self.mode == "retire":
            return rate < self.retire_at
        rng = np.random.default_rng([seed, SPLITS["train"], place, _SKIPPED, 0, 1])
        return bool(rng.random() >= rate)


def places(
    mixture: Mixture, curriculum: Curriculum, rates: Mapping[int, float], *, seed: int, first: int
) -> Iterator[int]:
    """Places of the stream from `first` on whose question is not passed over."""
    place = first
    passed_over = 0
    while True:
        rate = rates.get(mixture.number(seed=seed, place=place))
        if curriculum.takes(rate, seed=seed, place=place):
            passed_over = 0
            yield place
        else:
            passed_over += 1
        place += 1
        if passed_over > max(BLOCK, 20 * len(mixture)):
            raise UserError(
                f"config.data.curriculum={curriculum.mode!r}: no question is left, all "
                f"{len(mixture)} are answered too well; give harder ones, or end the run here"
            )
