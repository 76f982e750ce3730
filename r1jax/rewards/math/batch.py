"""Many verdicts at once: the cheap ones here, the rest in worker processes with a hard limit."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from r1jax.rewards.math.extract import Extraction, extract_answer
from r1jax.rewards.math.grader import Verdict, grade, quick_verdict
from r1jax.rewards.pool import Outcome, Pool

# The worker ends an evaluation by itself at this share of the limit, so that a kill is the rare
# case.
_OWN_LIMIT = 0.75
_TARGET = "r1jax.rewards.math.batch:grade_item"

_pools: dict[tuple[int, int], Pool] = {}
_pools_lock = threading.Lock()


def verify_batch(
    pairs: Sequence[tuple[str, str]],
    *,
    workers: int | None = None,
    timeout_s: float = 2.0,
    deadline_s: float | None = None,
) -> list[Verdict]:
    """One verdict per (response, gold), in order.

    `timeout_s` bounds one answer by killing its worker, `deadline_s` the whole batch; what was not
    finished is None. With `workers=0` everything runs in this process, under the bounds of
    `verify`. The default is one worker less than CPUs.
    """
    found = [extract_answer(response) for response, _ in pairs]
    golds = [gold for _, gold in pairs]
    verdicts = [quick_verdict(answer, gold) for answer, gold in zip(found, golds, strict=True)]
    hard = [i for i, verdict in enumerate(verdicts) if verdict is None]
    if workers == 0:
        for i in hard:
            verdicts[i] = grade(found[i], golds[i], timeout_s=timeout_s)
    elif hard:
        pool = shared_pool(workers or max(1, (os.cpu_count() or 2) - 1))
        items = [as_item(found[i], golds[i], timeout_s * _OWN_LIMIT) for i in hard]
        outcomes = pool.map(items, timeout_s=timeout_s, deadline_s=deadline_s)
        for i, outcome in zip(hard, outcomes, strict=True):
            verdicts[i] = _as_verdict(outcome)
        _count(pool, [v for v in verdicts if v is not None])
    return [v for v in verdicts if v is not None]


def as_item(answer: Extraction, gold: str, timeout_s: float) -> dict[str, Any]:
    return {
        "how": answer.how,
        "candidates": answer.candidates,
        "gold": gold,
        "timeout_s": timeout_s,
    }


def grade_item(item: dict[str, Any]) -> dict[str, Any]:
    """The workers' function."""
    answer = Extraction(item["how"], tuple(item["candidates"]))
    return asdict(grade(answer, item["gold"], timeout_s=item["timeout_s"]))


def _as_verdict(outcome: Outcome) -> Verdict:
    if outcome.status == "ok":
        return Verdict(**outcome.value)
    return Verdict(
        None, f"grader: {outcome.status} {outcome.detail}".strip(), None, outcome.seconds
    )


def _count(pool: Pool, verdicts: list[Verdict]) -> None:
    pool.count("masked", sum(v.correct is None for v in verdicts))
    pool.count("unparsed", sum(v.reason.startswith("answer:") for v in verdicts))


def shared_pool(workers: int) -> Pool:
    """This process's pool of that size, started on first use; a forked child gets its own."""
    key = (os.getpid(), workers)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(_TARGET, workers=workers)
        return _pools[key]


def close_pools() -> None:
    with _pools_lock:
        for (pid, _), pool in _pools.items():
            if pid == os.getpid():
                pool.close()
        _pools.clear()


atexit.register(close_pools)
