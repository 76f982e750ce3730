"""A step's samples: the prompts that are its own, sampled and judged at once."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from r1jax import rollout
from r1jax.rewards.grader import Pending
from r1jax.rollout import Carried
from r1jax.training.grading import collect, own_rows, submit_rows
from r1jax.training.session import Session
from r1jax.training.setup import Setup
from r1jax.types import Graded, Params, PromptBatch, Rollouts

Pieces = list[tuple[Sequence[int], Pending]]  # rows, and their verdicts on the way
NO_RATES: Mapping[int, float] = {}


class Feed(NamedTuple):
    """Where a step's samples come from: what a run that goes on must know."""

    next: int = 0  # the first place of the stream of prompts that is not used up
    # Updates the policy had had at the start of the last steps, this one's last: as far back as
    # anything carried was begun.
    updates: tuple[int, ...] = (0,)
    carried: Carried | None = None  # groups that a step began beyond those it wanted
    # With a curriculum, of question numbers: the share of right answers when it was last sampled.
    rates: Mapping[int, float] = NO_RATES


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a step learns from."""

    graded: Graded | None  # None = nothing to learn from
    next: int  # place of the stream where the next step goes on
    tokens: int  # sampled, those of responses that were dropped included
    metrics: Mapping[str, float]
    rates: Mapping[int, float]  # by place of the stream, the share of right answers
    carried: Carried | None = None


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What a step is to learn from, before all verdicts are in."""

    rollouts: Rollouts | None  # None = no group to learn from
    pieces: Pieces
    next: int  # this and the rest as in `Drawn`
    tokens: int
    metrics: Mapping[str, float]
    rates: Mapping[int, float] | None = None  # None = those of the rollouts' own prompts
    carried: Carried | None = None


def judged(setup: Setup, sampled: Sampled) -> Drawn:
    """With the verdicts: waits for them."""
    graded, rates = None, sampled.rates
    if sampled.rollouts is not None:
        graded = collect(sampled.rollouts, setup.grader, sampled.pieces)
        rates = accuracies(graded) if rates is None else rates
    return Drawn(
        graded, sampled.next, sampled.tokens, sampled.metrics, rates or {}, sampled.carried
    )


def accuracies(graded: Graded) -> dict[int, float]:
    """By place of the stream."""
    places = graded.rollouts.prompts.ids.tolist()
    shares = graded.correct.reshape(len(places), -1).mean(axis=1)
    return dict(zip(places, shares.tolist(), strict=True))


def make_ready(setup: Setup, policy: Params) -> Params:
    """The policy as rollouts take it, for all rollouts until it is updated."""
    config = setup.config.rollout
    return rollout.prepare_params(setup.module.config, policy, int8=config.int8_weights)


def sample_all(
    session: Session, ready: Params, feed: Feed, step: int, *, meanwhile: Callable[[], None]
) -> Sampled:
    """The next `prompts_per_step` prompts. `meanwhile` is called, again and again, while the device
    samples."""
    setup, clock = session.setup, session.clock
    with clock("rollout"):
        count = setup.config.rl.prompts_per_step
        places = list(itertools.islice(setup.train_places(feed.next, feed.rates), count))
        in_flight = start_rollout(setup, ready, setup.prompts_at("train", places), step)
    meanwhile()
    with clock("rollout"):
        # Judged in the background as they end, while the device samples on.
        pieces = submit_finished(setup, in_flight, step, meanwhile)
    return Sampled(
        in_flight.rollouts,
        pieces,
        next=places[-1] + 1,
        tokens=int(in_flight.rollouts.lengths.sum()),
        metrics=in_flight.stats(),
    )


def start_rollout(setup: Setup, ready: Params, prompts: PromptBatch, step: int) -> rollout.InFlight:
    return rollout.dispatch(
        setup.module,
        ready,
        prompts,
        sampling=setup.sampling_at(step),
        samples_per_prompt=setup.config.rl.samples_per_prompt,
        seed=setup.config.seed,
        step=step,
        config=setup.config.rollout,
        decode_text=setup.decode_text,
    )


def submit_finished(
    setup: Setup,
    in_flight: rollout.InFlight,
    step: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> Pieces:
    """See the rollout to its end and have its responses judged, in the background, as they come."""
    pieces: Pieces = []
    for rows in in_flight.finished():
        pieces += submit(setup, in_flight.rollouts, rows.tolist(), step)
        meanwhile()
    return pieces


def submit(setup: Setup, rollouts: Rollouts, rows: Sequence[int], step: int) -> Pieces:
    """Those of these rows that this process judges."""
    rows = own_rows(rollouts, rows)
    if not rows:
        return []
    pending = submit_rows(
        rollouts,
        rows,
        grader=setup.grader,
        tokenizer=setup.tokenizer,
        opened_by_prompt=setup.opened_by_prompt,
        run_key=(setup.config.seed, step),
    )
    return [(rows, pending)]
