"""Rollouts to `Graded`: decode the tokens, ask the grader, keep every part."""

from collections.abc import Sequence

import numpy as np

from r1jax.config import Config
from r1jax.data.tokenizers import Tokenizer
from r1jax.rewards import grader as grader_lib
from r1jax.rewards.grader import Grader, Pending
from r1jax.rewards.samples import Sample
from r1jax.types import Graded, Rollouts


def make_grader(config: Config) -> Grader:
    """The run's grader; its workers start with the first sample that needs one."""
    grading = config.grading
    limits = grader_lib.Limits(grading.workers, grading.timeout_s, grading.deadline_s)
    return Grader(config.make_reward(), limits)


def submit_rows(
    rollouts: Rollouts,
    rows: Sequence[int],
    *,
    grader: Grader,
    tokenizer: Tokenizer,
    opened_by_prompt: bool,
    run_key: tuple[int, ...],
) -> Pending:
    """Start judging rows that are finished, in any order; the others may still be decoded.

    `run_key` is (seed, step): together with prompt id and sample it names a sample for ever.
    """
    group = rollouts.samples_per_prompt
    samples = []
    for row in rows:
        prompt = row // group
        tokens = rollouts.response(row).tolist()
        samples.append(
            Sample(
                text=tokenizer.decode(tokens, skip_special_tokens=True),
                item=rollouts.prompts.items[prompt],
                key=(*run_key, int(rollouts.prompts.ids[prompt]), row % group),
                tokens=tokens,
                finished=bool(rollouts.finished[row]),
                opened_by_prompt=opened_by_prompt,
            )
        )
    return grader.submit(samples)


def collect(
    rollouts: Rollouts, grader: Grader, pieces: Sequence[tuple[Sequence[int], Pending]]
) -> Graded:
    """Wait for the verdicts of all rows, which were submitted in one or more pieces."""
    by_row: dict[int, Sample] = {}
    for rows, pending in pieces:
        by_row |= zip(rows, pending.collect(), strict=True)
    ordered = [by_row[row] for row in range(len(rollouts.lengths))]
    samples, grades = grader.finish(ordered, group=rollouts.samples_per_prompt)
    return Graded(
        rollouts=rollouts,
        texts=tuple(sample.text for sample in samples),
        rewards=np.array([g.reward or 0.0 for g in grades], np.float32),
        valid=np.array([g.reward is not None for g in grades], bool),
        correct=np.array([g.correct for g in grades], bool),
        reasoned=np.array([g.reasoned for g in grades], bool),
        answers=tuple(g.answer for g in grades),
        parts={
            name: np.array([g.parts[name] for g in grades], np.float32)
            for name in grader.reward.parts
        },
        steps=tuple(grade.steps for grade in grades) if grader.reward.steps else (),
        counts=grader_lib.count(samples),
    )
