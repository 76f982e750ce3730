"""Rewards from trained reward models, as DeepSeek-R1 applies them (2501.12948, section 3.1).

Helpfulness is scored on the final summary only, so that the reasoning is left alone; safety on the
whole response, so that no harm hides in the reasoning. The model is any callable from
(prompt, text) pairs to scores: a local forward pass, a service, a test's dictionary.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from r1jax.rewards.format import CLOSE_ANSWER, CLOSE_THINK, OPEN_ANSWER

Pair = tuple[str, str]
Scorer = Callable[[Sequence[Pair]], Sequence[float | int | None]]


def final_summary(response: str) -> str | None:
    """What follows the last `</think>`, without answer tags; None where there is nothing."""
    _, tag, summary = response.rpartition(CLOSE_THINK)
    if not tag:
        return None
    return summary.replace(OPEN_ANSWER, "").replace(CLOSE_ANSWER, "").strip() or None


def helpfulness(
    score: Scorer,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    without_summary: float | None = None,
) -> list[float | None]:
    """Scores of the final summaries; `without_summary` (masked by default) where there is none."""
    pairs = [(p, final_summary(r)) for p, r in zip(prompts, responses, strict=True)]
    scored = iter(_scores(score, [(p, text) for p, text in pairs if text is not None]))
    return [without_summary if text is None else next(scored) for _, text in pairs]


def safety(score: Scorer, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
    """Scores of the whole responses, reasoning included."""
    return _scores(score, list(zip(prompts, responses, strict=True)))


def general(
    scorers: Mapping[str, Scorer],
    kinds: Sequence[str],
    prompts: Sequence[str],
    responses: Sequence[str],
) -> list[float | None]:
    """Each query belongs to one of the sets `helpful` and `safety` and gets that model's score."""
    rewards: list[float | None] = [None] * len(kinds)
    if not len(kinds) == len(prompts) == len(responses):
        raise ValueError(f"{len(kinds)} kinds, {len(prompts)} prompts, {len(responses)} responses")
    for kind in sorted(set(kinds)):
        if kind not in SCORES:
            raise ValueError(f"unknown kind of query {kind!r}; there are {', '.join(SCORES)}")
        places = [place for place, name in enumerate(kinds) if name == kind]
        values = SCORES[kind](
            scorers[kind], [prompts[i] for i in places], [responses[i] for i in places]
        )
        for place, value in zip(places, values, strict=True):
            rewards[place] = value
    return rewards


SCORES: Mapping[str, Callable[..., list[float | None]]] = {
    "helpful": helpfulness,
    "safety": safety,
}


def _scores(score: Scorer, pairs: list[Pair]) -> list[float | None]:
    """Finite numbers or None: a reward model that overflows must mask, not poison the batch."""
    if not pairs:
        return []
    values = score(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"the scorer gave {len(values)} scores for {len(pairs)} texts")
    return [float(v) if v is not None and math.isfinite(v) else None for v in values]
