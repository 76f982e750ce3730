"""Sampling until enough groups are worth learning from: dynamic sampling, on a busy device."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from r1jax.models import Transformer
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout import plan as planning
from r1jax.rollout.engine import DEFAULTS, require_prompts
from r1jax.rollout.in_flight import InFlight
from r1jax.rollout.plan import RolloutConfig
from r1jax.rollout.programs import Programs, Requests, count_batch_shards, make_requests
from r1jax.rollout.stop_strings import Decoder
from r1jax.types import PromptBatch, Rollouts


class Groups(NamedTuple):
    """What a stream of prompts gave."""

    rollouts: Rollouts  # the accepted groups, in the stream's order
    tried: int  # prompts used up: the next step goes on behind them
    sampled: int  # responses that were finished, accepted or not, within `tried` or beyond
    enough: bool  # False = the budget or the stream was over first


def generate_groups(
    module: Transformer,
    decode_params: Any,
    prompt_stream: Iterable[PromptBatch],
    accept: Callable[[Rollouts], bool],
    *,
    want: int,
    budget: int,
    longest_prompt: int,
    sampling: SamplingParams,
    samples_per_prompt: int,
    seed: int,
    step: int = 0,
    config: RolloutConfig = DEFAULTS,
    decode_text: Decoder | None = None,
) -> Groups:
    """The first `want` groups of the stream that `accept` takes, of at most `budget` prompts.

    Prompts are read as slots fall idle, so the device waits neither for a round's longest response
    nor for a verdict. What is accepted is the first in the stream's order, not in time: the result
    depends on the seed and the stream alone, and what was sampled beyond it is dropped.
    """
    if want < 1 or budget < want:
        raise ValueError(f"want={want}, budget={budget}: must be 1 or more, and at least `want`")
    tried = _Tried(prompt_stream, accept, want, budget, samples_per_prompt, longest_prompt)
    plan = planning.make_plan(
        [longest_prompt] * budget,
        samples_per_prompt=samples_per_prompt,
        sampling=sampling,
        config=config,
        row_multiple=count_batch_shards(),
    )
    waves = tried.waves(
        lambda prompts, first: make_requests(prompts, plan, first=first, seed=seed, step=step),
        plan.bank_prompts,
    )
    programs = Programs(module.config, decode_params, config, plan, sampling)
    nobody = PromptBatch(np.zeros(0, np.int64), (), ())
    in_flight = InFlight(nobody, waves, programs, decode_text)
    for rows in in_flight.finished():
        tried.see(rows, in_flight.rollouts)
        if tried.settled() is not None:
            break
    return tried.result(in_flight.rollouts)


class _Tried:
    """The prompts taken from the stream so far, and the verdicts on their groups."""

    def __init__(
        self,
        stream: Iterable[PromptBatch],
        accept: Callable[[Rollouts], bool],
        want: int,
        budget: int,
        samples: int,
        longest: int,
    ) -> None:
        self._stream, self._accept = iter(stream), accept
        self._want, self._samples, self._longest = want, samples, longest
        self._prompts: list[PromptBatch] = []  # of one prompt each
        self._missing = np.full(budget, samples)  # responses of each group still to come
        self._verdicts: dict[int, bool] = {}
        self._sampled = 0

    def waves(
        self, make: Callable[[PromptBatch, int], Requests], at_once: int
    ) -> Iterator[Requests]:
        """Requests for more prompts, until the budget is spent, the stream ends or all is known."""
        for batch in self._stream:
            require_prompts(batch.tokens)
            longest = max(map(len, batch.tokens))
            if longest > self._longest:
                raise ValueError(f"a prompt has {longest} tokens, longest_prompt={self._longest}")
            for start in range(0, len(batch), at_once):
                first = len(self._prompts)
                room = len(self._missing) - first
                some = _take(batch, slice(start, start + min(at_once, room)))
                if self.settled() is not None or not room:
                    return
                self._prompts += [_take(some, slice(i, i + 1)) for i in range(len(some))]
                yield make(some, first * self._samples)

    def see(self, rows: np.ndarray, rollouts: Rollouts) -> None:
        """Judge the groups that these rows complete."""
        self._sampled += len(rows)
        for group in rows // self._samples:
            self._missing[group] -= 1
            if not self._missing[group]:
                self._verdicts[int(group)] = self._accept(self._group([int(group)], rollouts))

    def settled(self) -> int | None:
        """The prompts up to and with the one that makes enough, once all before it are judged."""
        accepted = 0
        for group in range(len(self._prompts)):
            if group not in self._verdicts:
                return None
            accepted += self._verdicts[group]
            if accepted == self._want:
                return group + 1
        return None

    def result(self, rollouts: Rollouts) -> Groups:
        cut = self.settled()
        tried = len(self._prompts) if cut is None else cut
        accepted = [group for group in range(tried) if self._verdicts[group]]
        return Groups(self._group(accepted, rollouts), tried, self._sampled, cut is not None)

    def _group(self, groups: list[int], rollouts: Rollouts) -> Rollouts:
        rows = np.array(groups, int)[:, None] * self._samples + np.arange(self._samples)
        arrays = {
            name: getattr(rollouts, name)[rows.reshape(-1)]
            for name in ("tokens", "logp", "lengths", "finished", "logp_plain")
            if getattr(rollouts, name) is not None
        }
        return Rollouts(_join([self._prompts[group] for group in groups]), **arrays)


def _take(prompts: PromptBatch, chosen: slice) -> PromptBatch:
    return PromptBatch(prompts.ids[chosen], prompts.tokens[chosen], prompts.items[chosen])


def _join(parts: list[PromptBatch]) -> PromptBatch:
    return PromptBatch(
        np.concatenate([np.zeros(0, np.int64), *(part.ids for part in parts)]),
        tuple(tokens for part in parts for tokens in part.tokens),
        tuple(item for part in parts for item in part.items),
    )
