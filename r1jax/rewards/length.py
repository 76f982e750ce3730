"""Rewards that look at the length of a completion only. Lengths are in tokens, the EOS included."""

import math
from collections.abc import Sequence


def soft_overlong(n_tokens: int, max_len: int, cache: int) -> float:
    """DAPO's soft overlong punishment (2503.14476, eq. 13), to be added to the accuracy reward.

    0 up to L - C; ((L - C) - n) / C up to L; -1 beyond, with L = `max_len`, C = `cache`.
    """
    _check(n_tokens, max_len)
    if not 0 <= cache <= max_len:
        raise ValueError(f"cache must lie in 0..{max_len}, not {cache}")
    if n_tokens > max_len:
        return -1.0
    over = n_tokens - (max_len - cache)
    return -over / cache if over > 0 else 0.0


def overlong_filter(
    reward: float | int | None, *, truncated: bool, punishment: float | None = None
) -> float | None:
    """The reward of a completion that ended by itself; of a truncated one the punishment.

    None (the default) masks a truncated sample: DAPO's overlong filtering.
    """
    if truncated:
        return punishment
    return None if reward is None else float(reward)


def cosine(
    n_tokens: int,
    max_len: int,
    correct: bool,
    *,
    correct_short: float = 1.0,
    correct_long: float = 0.5,
    wrong_short: float = -1.0,
    wrong_long: float = -0.5,
) -> float:
    """Cosine length reward (2502.03373): a half wave from the `short` to the `long` value.

    Right answers earn more when short, wrong ones lose less when long. The length is clipped at
    `max_len`; without the clip the wave turns and very long wrong answers are punished as short.
    """
    _check(n_tokens, max_len)
    short, long = (correct_short, correct_long) if correct else (wrong_short, wrong_long)
    progress = min(n_tokens / max_len, 1.0)
    return long + (short - long) * 0.5 * (1.0 + math.cos(math.pi * progress))


def kimi(n_tokens: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """Kimi k1.5's length reward (2501.12599) of each sample of one prompt's group.

    lambda = 0.5 - (n - min) / (max - min); right answers get lambda, wrong ones min(0, lambda).
    A group of one length has no shorter and longer answer: 0 for all.
    """
    if len(n_tokens) != len(correct):
        raise ValueError(f"{len(n_tokens)} lengths, {len(correct)} verdicts")
    if not n_tokens or min(n_tokens) == max(n_tokens):
        return [0.0] * len(n_tokens)
    shortest, longest = min(n_tokens), max(n_tokens)
    rewards = []
    for count, right in zip(n_tokens, correct, strict=True):
        value = 0.5 - (count - shortest) / (longest - shortest)
        rewards.append(value if right else min(0.0, value))
    return rewards


def _check(n_tokens: int, max_len: int) -> None:
    if n_tokens < 0 or max_len <= 0:
        raise ValueError(f"no such length: {n_tokens} of at most {max_len} tokens")
