"""pass@k and maj@k from samples of each prompt: numpy, exact."""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def pass_at_k(correct_PG: np.ndarray, k: int) -> float:
    """Mean over prompts of 1 - C(n - c, k) / C(n, k): the unbiased estimate from n >= k samples."""
    n = correct_PG.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples of each prompt, there are {n}")
    wrong_P1 = n - correct_PG.sum(axis=1, keepdims=True)
    # The ratio of binomials as a product; it passes through 0 where fewer than k are wrong.
    misses_P = np.prod((wrong_P1 - np.arange(k)) / (n - np.arange(k)), axis=1)
    return float(np.mean(1 - np.abs(misses_P)))


def maj_at_k(answers_PG: Sequence[Sequence[str | None]], correct_PG: np.ndarray, k: int) -> float:
    """Share of votes won by a correct answer; a vote is over k consecutive samples of a prompt.

    Samples without an answer do not vote; a tie goes to the answer that was given first.
    """
    n = correct_PG.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} needs at least {k} samples of each prompt, there are {n}")
    wins = []
    for answers, correct in zip(answers_PG, correct_PG, strict=True):
        for start in range(0, len(answers) - k + 1, k):
            ballot = [
                (answer, bool(right))
                for answer, right in zip(
                    answers[start : start + k], correct[start : start + k], strict=True
                )
                if answer is not None
            ]
            votes = Counter(answer for answer, _ in ballot)
            winner = votes.most_common(1)[0][0] if votes else None
            wins.append(any(answer == winner and right for answer, right in ballot))
    return float(np.mean(wins))
