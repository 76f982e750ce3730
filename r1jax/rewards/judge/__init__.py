"""A generative reward model: another model, or our own policy, judges answers.

A judgement that fails in any way (no reply, no verdict, two verdicts) is None, never 0 or 1; when
fewer than half of the judgements asked for come back, so is the reward, and the sample is masked.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from r1jax.rewards.judge import prompts, verdicts
from r1jax.rewards.judge.client import Chat, Endpoint, HttpChat, Messages, RateLimit

__all__ = [
    "Chat",
    "Endpoint",
    "HttpChat",
    "Messages",
    "RateLimit",
    "correctness",
    "in_threads",
    "preference",
]

Result = TypeVar("Result")


def correctness(
    chat: Chat,
    question: str,
    reference: str,
    response: str,
    *,
    judgements: int = 1,
    seed: int = 0,
) -> float | None:
    """The share in [0, 1] of judgements that find the response's answer equal to the reference.

    Give the final answer or summary as `response`: the judge need not see the thoughts.
    """
    values = []
    for number in range(judgements):
        messages, tag = prompts.correctness(question, reference, response, seed=seed + number)
        reply = chat(messages, seed=seed + number)
        values.append(_value(reply, tag, verdicts.CORRECTNESS))
    return _mean(values)


def preference(
    chat: Chat,
    question: str,
    first: str,
    second: str,
    *,
    judgements: int = 4,
    seed: int = 0,
) -> float | None:
    """How much better the first answer is, in [-2, 2]: 2 for "much better" in every judgement.

    Which answer is called A is drawn from a hash and then alternates, so that an even number of
    judgements cancels any liking for a place. R1 asked 4 times and kept pairs above 1 in size.
    """
    values = []
    for number in range(judgements):
        swapped = (_coin(question, first, second, seed) + number) % 2 == 1
        a, b = (second, first) if swapped else (first, second)
        messages, tag = prompts.preference(question, a, b, seed=seed + number)
        value = _value(chat(messages, seed=seed + number), tag, verdicts.PREFERENCE)
        values.append(-value if swapped and value is not None else value)
    return _mean(values)


def in_threads(calls: Sequence[Callable[[], Result]], *, workers: int = 16) -> list[Result]:
    """The results of many judgements in order; a service is kept busy by asking it in parallel."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        return list(pool.map(lambda call: call(), calls))


def _value(reply: str | None, tag: str, scale: Mapping[str, float]) -> float | None:
    if reply is None:
        return None
    verdict = verdicts.parse(reply, tag=tag, allowed=scale)
    return None if verdict is None else scale[verdict]


def _mean(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    if not told or 2 * len(told) < len(values):
        return None
    return sum(told) / len(told)


def _coin(*parts: str | int) -> int:
    return hashlib.blake2b(repr(parts).encode("utf-8", "replace"), digest_size=1).digest()[0] & 1
