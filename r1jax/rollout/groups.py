"""Sampling until enough groups are worth learning from: dynamic sampling, on a busy device."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from r1jax.models import Transformer
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout import plan as planning
from r1jax.rollout.engine import DEFAULTS, require_call, require_prompts
from r1jax.rollout.in_flight import InFlight
from r1jax.rollout.partial import (
    Carried,
    join_prompts,
    make_waves,
    rows_of,
    start_rollouts,
    take_prompts,
    take_rows,
)
from r1jax.rollout.plan import Plan, RolloutConfig
from r1jax.rollout.programs import Programs, Requests, count_batch_shards, make_requests
from r1jax.rollout.stop_strings import Decoder
from r1jax.types import PromptBatch, Rollouts


class Groups(NamedTuple):
    """What a stream of prompts gave."""

    rollouts: Rollouts  # the accepted groups, in the stream's order
    tried: int  # prompts used up, those carried included: the next step goes on behind them
    sampled: int  # responses that were finished, accepted or not, within `tried` or beyond
    enough: bool  # False = the budget or the stream was over first
    carried: Carried  # with `carry`, what was begun beyond `tried`
    stats: dict[str, float]  # `InFlight.stats`


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
    carried: Carried | None = None,
    carry: bool = False,
) -> Groups:
    """The first `want` groups of the stream that `accept` takes, of at most `budget` prompts.

    Prompts are read as slots fall idle, so the device waits neither for a round's longest response
    nor for a verdict. What is accepted is the first in the stream's order, not in time: the result
    depends on the seed and the stream alone. What was sampled beyond it is dropped, and the next
    step's stream goes on behind `tried`; or, with `carry`, it is `carried` to the next step as it
    stands: give it that, and a stream that goes on behind those too. `carried` come first.
    """
    if want < 1 or budget < want:
        raise ValueError(f"want={want}, budget={budget}: must be 1 or more, and at least `want`")
    require_call(module.config, sampling, config, decode_text, samples_per_prompt, (seed, step))
    planning.require_places(module.config, longest_prompt, sampling.max_tokens)
    lengths = [longest_prompt] * budget
    if carried is not None:
        if len(carried) > budget:
            raise ValueError(f"budget={budget}: {len(carried)} prompts are carried already")
        config = dataclasses.replace(config, share_prompts="never")
        lengths += carried.lengths()
    plan = planning.make_plan(
        lengths,
        groups=budget,
        samples_per_prompt=samples_per_prompt,
        sampling=sampling,
        config=config,
        row_multiple=count_batch_shards(),
    )
    start = start_rollouts(plan, join_prompts([]), carried, step)
    tried = _Tried(prompt_stream, accept, want, start, longest_prompt, module.config.vocab_size)

    def waves() -> Iterator[Requests]:
        yield from make_waves(start, plan, seed=seed)
        yield from tried.waves(
            lambda some, first: make_requests(some, plan, first=first, seed=seed, steps_P=step),
            plan,
        )

    programs = Programs(module.config, decode_params, config, plan, sampling)
    in_flight = InFlight(start, waves(), programs, decode_text)
    for rows in in_flight.finished():
        tried.see(rows, in_flight.rollouts)
        if tried.settled() is not None:
            if carry:
                in_flight.stop()
            break
    return tried.result(in_flight, carry=carry)


class _Tried:
    """The prompts taken up so far, and the verdicts on their groups."""

    def __init__(
        self,
        stream: Iterable[PromptBatch],
        accept: Callable[[Rollouts], bool],
        want: int,
        start: Carried,
        longest: int,
        vocab_size: int,
    ) -> None:
        self._stream, self._accept = iter(stream), accept
        self._want, self._longest, self._vocab_size = want, longest, vocab_size
        self._samples, self._began = start.samples_per_prompt, start.began
        # Of one prompt each.
        carried = start.rollouts.prompts
        self._prompts = [take_prompts(carried, [index]) for index in range(len(carried))]
        self._missing = np.full(len(start), self._samples)  # responses of each group still to come
        self._verdicts: dict[int, bool] = {}
        self._sampled = -int(start.complete.sum())  # counted when they were

    def waves(self, make: Callable[[PromptBatch, int], Requests], plan: Plan) -> Iterator[Requests]:
        """Requests for more prompts, until the budget is spent, the stream ends or all is known."""
        for batch in self._stream:
            require_prompts(batch.tokens, self._vocab_size)
            longest = max(map(len, batch.tokens))
            if longest > self._longest:
                raise ValueError(f"a prompt has {longest} tokens, longest_prompt={self._longest}")
            at_once = min(plan.bank_prompts, -(-len(batch) // plan.lanes))
            for start in range(0, len(batch), at_once):
                first = len(self._prompts)
                room = len(self._missing) - first
                end = min(start + min(at_once, room), len(batch))
                if self.settled() is not None or not room:
                    return
                some = take_prompts(batch, range(start, end))
                self._prompts += [take_prompts(some, [index]) for index in range(len(some))]
                yield make(some, first * self._samples)

    def see(self, rows: np.ndarray, rollouts: Rollouts) -> None:
        """Judge the groups that these rows complete."""
        self._sampled += len(rows)
        for group in rows // self._samples:
            self._missing[group] -= 1
            if not self._missing[group]:
                self._verdicts[int(group)] = self._accept(self._take([int(group)], rollouts))

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

    def result(self, in_flight: InFlight, *, carry: bool) -> Groups:
        cut = self.settled()
        rollouts = in_flight.rollouts
        tried = len(self._prompts) if cut is None else cut
        accepted = [group for group in range(tried) if self._verdicts[group]]
        begun = [] if not carry else self._begun(tried, rollouts)
        carried = Carried(
            self._take(begun, rollouts),
            in_flight.complete[rows_of(begun, self._samples)],
            self._began[begun],
        )
        return Groups(
            rollouts=self._take(accepted, rollouts),
            tried=tried,
            sampled=self._sampled,
            enough=cut is not None,
            carried=carried,
            stats=in_flight.stats(),
        )

    def _begun(self, first: int, rollouts: Rollouts) -> list[int]:
        lengths = rollouts.lengths[:: self._samples]
        return [group for group in range(first, len(self._prompts)) if lengths[group]]

    def _take(self, groups: list[int], rollouts: Rollouts) -> Rollouts:
        prompts = join_prompts([self._prompts[group] for group in groups])
        return take_rows(rollouts, rows_of(groups, self._samples), prompts)
