"""Rollouts to `Graded`: decode the tokens, ask the reward, keep every part."""

from collections.abc import Mapping

import numpy as np

from r1jax.data.tasks import Task
from r1jax.data.tokenizers import Tokenizer
from r1jax.rewards import compose
from r1jax.types import Graded, Rollouts


def grade_rollouts(
    rollouts: Rollouts,
    *,
    tokenizer: Tokenizer,
    task: Task,
    weights: Mapping[str, float],
    opened_by_prompt: bool,
    run_key: tuple[int, ...],
) -> Graded:
    """`run_key` is (seed, step): together with prompt id and sample it names a sample for ever."""
    group = rollouts.samples_per_prompt
    texts = tuple(
        tokenizer.decode(rollouts.response(row).tolist(), skip_special_tokens=True)
        for row in range(len(rollouts.lengths))
    )
    grades = [
        compose.grade(
            text,
            rollouts.prompts.items[row // group],
            task=task,
            weights=weights,
            opened_by_prompt=opened_by_prompt,
            key=(*run_key, int(rollouts.prompts.ids[row // group]), row % group),
        )
        for row, text in enumerate(texts)
    ]
    return Graded(
        rollouts=rollouts,
        texts=texts,
        rewards=np.array([g.reward or 0.0 for g in grades], np.float32),
        valid=np.array([g.reward is not None for g in grades]),
        correct=np.array([g.correct for g in grades]),
        reasoned=np.array([g.reasoned for g in grades]),
        answers=tuple(g.answer for g in grades),
        parts={name: np.array([g.parts[name] for g in grades], np.float32) for name in weights},
    )
