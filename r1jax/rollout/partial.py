"""Partial rollouts: a rollout is ended before its longest responses are over, and these go on in a
later one, whose policy may be another.

    in_flight = dispatch(..., step=step, carried=carried)
    for rows in in_flight.finished():
        judge(rows)
        if len(in_flight.complete_groups()) >= want:
            judge(in_flight.stop())
            break
    learned = in_flight.complete_groups()[:want]
    rollouts = take_groups(in_flight.rollouts, learned)
    carried = in_flight.carry(the others)

A response that goes on is read again, its prompt and what it has, by the policy that goes on; its
tokens keep the log-probs that they were sampled with. Every token has its own random numbers, so an
unchanged policy gives the response that it gives without the stop.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from r1jax.rollout.plan import Plan
from r1jax.rollout.programs import Requests, make_requests, split_requests
from r1jax.types import PromptBatch, Rollouts

# Of `Rollouts`, [R].
ARRAYS = ("tokens", "logp", "lengths", "finished", "logp_plain", "kept", "staleness")


@dataclasses.dataclass(frozen=True)
class Carried:
    """Groups as they stand: some of their responses may be complete, or not begun."""

    rollouts: Rollouts
    complete: np.ndarray  # [R] bool, True = no more tokens will come
    began: np.ndarray  # [P] int32, the step in which a group began

    def __len__(self) -> int:
        return len(self.began)

    @property
    def samples_per_prompt(self) -> int:
        return len(self.complete) // max(1, len(self))

    @property
    def begun(self) -> np.ndarray:
        """[P] bool, True = the group's prompt has been read."""
        return self.rollouts.lengths[:: max(1, self.samples_per_prompt)] > 0

    def going(self) -> list[int]:
        """Rows that have tokens, and want more."""
        return np.flatnonzero(~self.complete & (self.rollouts.lengths > 0)).tolist()

    def text(self, row: int) -> np.ndarray:
        """A response with its prompt."""
        prompt = self.rollouts.prompts.tokens[row // self.samples_per_prompt]
        return np.concatenate([prompt, self.rollouts.response(row)])

    def lengths(self) -> list[int]:
        """Of everything that has to be read."""
        whole = np.flatnonzero(~self.begun)
        return [len(self.rollouts.prompts.tokens[group]) for group in whole] + [
            len(self.text(row)) for row in self.going()
        ]


def take_groups(rollouts: Rollouts, groups: Sequence[int] | np.ndarray) -> Rollouts:
    """The rollouts of some prompts, in this order."""
    prompts = take_prompts(rollouts.prompts, groups)
    return take_rows(rollouts, rows_of(groups, rollouts.samples_per_prompt), prompts)


def rows_of(groups: Sequence[int] | np.ndarray, samples: int) -> np.ndarray:
    return (np.asarray(groups, int)[:, None] * samples + np.arange(samples)).reshape(-1)


def take_rows(rollouts: Rollouts, rows: np.ndarray, prompts: PromptBatch) -> Rollouts:
    """These rows, which are all of these prompts."""
    arrays: dict[str, Any] = {
        name: getattr(rollouts, name)[rows]
        for name in ARRAYS
        if getattr(rollouts, name) is not None
    }
    return Rollouts(prompts, **arrays)


def take_prompts(prompts: PromptBatch, chosen: Sequence[int] | np.ndarray) -> PromptBatch:
    return PromptBatch(
        prompts.ids[np.asarray(chosen, int)],
        tuple(prompts.tokens[index] for index in chosen),
        tuple(prompts.items[index] for index in chosen),
    )


def join_prompts(parts: Sequence[PromptBatch]) -> PromptBatch:
    return PromptBatch(
        np.concatenate([np.zeros(0, np.int64), *(part.ids for part in parts)]),
        tuple(tokens for part in parts for tokens in part.tokens),
        tuple(item for part in parts for item in part.items),
    )


def start_rollouts(plan: Plan, prompts: PromptBatch, carried: Carried | None, step: int) -> Carried:
    """All rows of a rollout as they stand at its start: those carried, then those of `prompts`."""
    shape = (plan.rows, plan.max_tokens)
    staleness = np.zeros(plan.rows, np.int32)
    rollouts = Rollouts(
        prompts=prompts,
        tokens=np.zeros(shape, np.int32),
        logp=np.zeros(shape, np.float32),
        lengths=np.zeros(plan.rows, np.int32),
        finished=np.zeros(plan.rows, bool),
        logp_plain=np.zeros(shape, np.float32) if plan.variant.plain_logp else None,
        kept=np.full((*shape, plan.variant.kept), -1, np.int32) if plan.variant.kept else None,
        staleness=staleness,
    )
    complete = np.zeros(plan.rows, bool)
    began = np.full(plan.rows // plan.samples_per_prompt, step, np.int32)
    if carried is None or not len(carried):
        return Carried(rollouts, complete, began)
    _require_alike(carried.rollouts, rollouts, plan.samples_per_prompt)
    rows = len(carried.complete)
    for name in ARRAYS:
        if getattr(rollouts, name) is not None:
            getattr(rollouts, name)[:rows] = getattr(carried.rollouts, name)
    complete[:rows] = carried.complete
    began[: len(carried)] = np.where(carried.begun, carried.began, step)
    staleness[:] = np.repeat(step - began, plan.samples_per_prompt)
    joined = join_prompts([carried.rollouts.prompts, prompts])
    return Carried(dataclasses.replace(rollouts, prompts=joined), complete, began)


def _require_alike(carried: Rollouts, rollouts: Rollouts, samples: int) -> None:
    had, wanted = carried.tokens.shape[1], rollouts.tokens.shape[1]
    kept_before, kept = (0 if x.kept is None else x.kept.shape[2] for x in (carried, rollouts))
    problems = [
        (had != wanted, f"sampling.max_tokens={wanted}", had),
        (carried.samples_per_prompt != samples, f"{samples=}", carried.samples_per_prompt),
        (
            (carried.logp_plain is None) != (rollouts.logp_plain is None),
            f"sampling.return_logp={'processed' if rollouts.logp_plain is None else 'both'!r}",
            "the other",
        ),
        (kept_before != kept, f"sampling.record_kept of {kept} tokens", kept_before),
    ]
    for wrong, what, before in problems:
        if wrong:
            raise ValueError(f"{what}: was {before} when the carried responses began; keep it")


def make_waves(start: Carried, plan: Plan, *, seed: int) -> Iterator[Requests]:
    """What the bank is to hold, one filling after the other: responses that go on, then prompts."""
    prompts = start.rollouts.prompts
    steps = start.began[: len(prompts)]
    requests = make_requests(prompts, plan, first=0, seed=seed, steps_P=steps)
    rows = start.going()
    if rows:
        flat = [leaf.reshape(-1, 1, *leaf.shape[2:])[rows] for leaf in requests[1:]]
        going = Requests([start.text(row) for row in rows], *flat)
        had = start.rollouts.lengths[rows][:, None]
        going = going._replace(limits=going.limits - had, starts=going.starts + had)
        yield from split_requests(going, plan)
    whole = np.flatnonzero(~start.begun[: len(prompts)])
    if len(whole):
        yield from split_requests(requests.take(whole), plan)
