"""How much a completion repeats itself, from its tokens: the same measure in every language."""

import dataclasses
from collections.abc import Hashable, Sequence

from r1jax.rewards.language import prose


def ngram_share(tokens: Sequence[Hashable], n: int = 20) -> float:
    """The share of n-grams that occurred before, in [0, 1]; 0 for fewer than two n-grams."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    count = len(tokens) - n + 1
    if count < 2:
        return 0.0
    distinct = len({tuple(tokens[start : start + n]) for start in range(count)})
    return 1.0 - distinct / count


def text_ngram_share(text: str, n: int = 6) -> float:
    """`ngram_share` over the words of the prose: tables and programs repeat with good reason."""
    return ngram_share(prose.plain_words(text), n)


@dataclasses.dataclass(frozen=True)
class TailRun:
    """The end of a sequence is `copies` of its last `period` tokens (the first may be cut)."""

    period: int
    copies: float
    length: int


NO_RUN = TailRun(0, 0.0, 0)


def tail_run(tokens: Sequence[Hashable], *, min_copies: float | int = 3) -> TailRun:
    """The longest periodic end of the sequence; `NO_RUN` where nothing ends in `min_copies`.

    Linear time, whatever the period: reversed, the end is a beginning, and the Z-function says how
    far a sequence agrees with itself moved by any period.
    """
    if min_copies <= 1:
        raise ValueError(f"one copy is no run: min_copies {min_copies}")
    best = NO_RUN
    for period, agreeing in enumerate(_z_function(tokens[::-1])):
        length = period + agreeing
        if period and length >= min_copies * period and length > best.length:
            best = TailRun(period, length / period, length)
    return best


def _z_function(items: Sequence[Hashable]) -> list[int]:
    """For each place, how many items from there equal the items from the start (0 at place 0)."""
    reach = [0] * len(items)
    left = right = 0
    for place in range(1, len(items)):
        if place < right:
            reach[place] = min(right - place, reach[place - left])
        while (
            place + reach[place] < len(items) and items[reach[place]] == items[place + reach[place]]
        ):
            reach[place] += 1
        if place + reach[place] > right:
            left, right = place, place + reach[place]
    return reach


def penalty(
    tokens: Sequence[Hashable],
    *,
    n: int = 20,
    free_share: float = 0.1,
    stuck_copies: float | int = 4,
    stuck_tokens: int = 64,
) -> float:
    """In [-1, 0]: linear in the n-gram share above `free_share`; -1 where the end is a loop.

    The loop test matters because a long sound text may hide a short loop at its end, which is how
    a completion runs into the length limit.
    """
    if not 0 <= free_share < 1:
        raise ValueError(f"free_share must lie in [0, 1), not {free_share}")
    if tail_run(tokens, min_copies=stuck_copies).length >= stuck_tokens:
        return -1.0
    over = ngram_share(tokens, n) - free_share
    return -max(0.0, over) / (1.0 - free_share)
