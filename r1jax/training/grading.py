"""Rollouts to `Graded`: decode the tokens, ask the grader, keep every part."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax import cluster
from r1jax.config import Config
from r1jax.data.tokenizers import Tokenizer
from r1jax.rewards import grader as grader_lib
from r1jax.rewards.compose import Grade
from r1jax.rewards.grader import Grader, Pending
from r1jax.rewards.samples import Judgement, Sample
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
    """Start judging rows that are finished, in any order; the others may still be decoded."""
    return grader.submit(
        make_samples(
            rollouts,
            rows,
            tokenizer=tokenizer,
            opened_by_prompt=opened_by_prompt,
            run_key=run_key,
        )
    )


def make_samples(
    rollouts: Rollouts,
    rows: Sequence[int],
    *,
    tokenizer: Tokenizer,
    opened_by_prompt: bool,
    run_key: tuple[int, ...],
) -> list[Sample]:
    """`run_key` is (seed, step): together with prompt id and sample it names a sample for ever."""
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
    return samples


def collect(
    rollouts: Rollouts,
    grader: Grader,
    pieces: Sequence[tuple[Sequence[int], Pending]],
    *,
    with_steps: bool = True,
) -> Graded:
    """Wait for the verdicts of all rows, which were submitted in one or more pieces.

    Each process of a run has those of its own groups judged, and all get the verdicts of all;
    `texts` are of its own rows.
    """
    by_row: dict[int, Sample] = {}
    for rows, pending in pieces:
        by_row |= zip(rows, pending.collect(), strict=True)
    rows = own_rows(rollouts, range(len(rollouts.lengths)))
    samples, own = grader.finish(
        [by_row[row] for row in rows], group=rollouts.samples_per_prompt, with_steps=with_steps
    )
    texts = [""] * len(rollouts.lengths)
    for row, sample in zip(rows, samples, strict=True):
        texts[row] = sample.text
    grades, counts = exchange(rows, own, grader_lib.count(samples))
    return Graded(
        rollouts=rollouts,
        texts=tuple(texts),
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
        counts=counts,
    )


def own_rows(rollouts: Rollouts, rows: Sequence[int]) -> list[int]:
    """Those that this process has judged: all samples of a prompt by the same one, as some parts of
    a reward compare them."""
    return [row for row in rows if cluster.owns(row // rollouts.samples_per_prompt)]


def judge_together(samples: Sequence[Sample], grader: Grader) -> list[Sample]:
    """Samples with their verdicts, those of one group that is waited for: each process of a run has
    some of them judged."""
    own = [place for place in range(len(samples)) if cluster.owns(place)]
    found = grader.submit([samples[place] for place in own]).collect()
    if cluster.count() == 1:
        return found
    verdicts = [
        [place, dataclasses.asdict(sample.accuracy), _as_json(sample.judged)]
        for place, sample in zip(own, found, strict=True)
    ]
    judged = list(samples)
    for part in cluster.gather(verdicts, "verdicts"):
        for place, accuracy, others in part:
            judged[place] = dataclasses.replace(
                samples[place],
                accuracy=Judgement(**accuracy),
                judged={name: Judgement(**fields) for name, fields in others.items()},
            )
    return judged


def _as_json(judged: Mapping[str, Judgement]) -> dict[str, Any]:
    return {name: dataclasses.asdict(judgement) for name, judgement in judged.items()}


def exchange(
    rows: Sequence[int], grades: Sequence[Grade], counts: Mapping[str, float]
) -> tuple[list[Grade], Mapping[str, float]]:
    """(the grades of all rows in their order, the counts of all), from those of each process."""
    if cluster.count() == 1:
        return list(grades), counts
    own = [[row, dataclasses.asdict(grade)] for row, grade in zip(rows, grades, strict=True)]
    said: list[Any] = cluster.gather([own, counts], "grades")
    by_row = {row: Grade(**fields) for part, _ in said for row, fields in part}
    total = {name: math.fsum(part[name] for _, part in said) for name in counts}
    # A mean over verdicts, of which each process has about as many.
    total["queue_s"] /= cluster.count()
    return [by_row[row] for row in range(len(by_row))], total
