"""One step off: the samples of a step are drawn while the host sees to those of the step before.

    device   | sample 1 by p0 | update 0 | sample 2 by p1 | update 1 | sample 3 by p2 | ...
    host     | judge, pack 0  |          | judge, pack 1  |          | judge, pack 2  |

p1 is the policy after update 0. In the strict loop the device waits for verdicts and packing; here
it waits for neither, and every step but the first learns from samples that are one step old. The
order of what is dispatched is the same in every process and in every run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from r1jax import cluster
from r1jax.rollout import Carried
from r1jax.training.batches import Minibatch
from r1jax.training.dynamic import carried_arrays, read_carried, sample_band
from r1jax.training.sampling import Drawn, Feed, Sampled, judged, sample_all, submit
from r1jax.training.session import Session
from r1jax.training.setup import Setup
from r1jax.types import Graded, Params

# -> (the same with all that is paid, minibatches)
Pack = Callable[[Graded | None], tuple[Graded | None, list[Minibatch]]]


def sample_step(
    session: Session, ready: Params, feed: Feed, step: int, *, meanwhile: Callable[[], None]
) -> Sampled:
    refills = session.setup.config.rl.dynamic.mode == "refill"
    return (sample_band if refills else sample_all)(session, ready, feed, step, meanwhile=meanwhile)


def draw(
    session: Session,
    ready: Params,
    feed: Feed,
    step: int,
    pack: Pack,
    *,
    meanwhile: Callable[[], None],
) -> tuple[Drawn, list[Minibatch]]:
    """The strict order: sampled by the policy that is then updated."""
    sampled = sample_step(session, ready, feed, step, meanwhile=meanwhile)
    with session.clock("grade"):
        drawn = judged(session.setup, sampled)
    with session.clock("pack"):
        graded, minibatches = pack(drawn.graded)
    return dataclasses.replace(drawn, graded=graded), minibatches


def draw_ahead(
    session: Session,
    ready: Params,
    feed: Feed,
    step: int,
    pack: Pack,
    *,
    now: Sampled | None,
    meanwhile: Callable[[], None],
) -> tuple[Drawn, list[Minibatch], Sampled | None]:
    """This step's samples, judged and packed while the device sampled the next one's; and those.

    `now`: this step's, drawn a step ago; None = there is none, at a run's start. `Drawn.next` and
    `Drawn.carried` are those of the newest samples.
    """
    if now is None:
        now = sample_step(session, ready, feed, step, meanwhile=meanwhile)
        feed = feed._replace(next=now.next, carried=now.carried)
    verdicts = session.setup.grader.later(lambda: judged(session.setup, now))
    packed: list[tuple[Graded | None, list[Minibatch]]] = []

    def pack_once() -> None:
        if not packed:
            with session.clock("pack"):
                packed.append(pack(verdicts.result().graded))

    def see_to_this_step() -> None:
        meanwhile()
        if not packed and are_in(verdicts):
            pack_once()

    following = None
    if step + 1 < session.setup.config.rl.steps:
        following = sample_step(session, ready, feed, step + 1, meanwhile=see_to_this_step)
        following = one_older(following, step + 1)
    with session.clock("grade"):
        drawn = verdicts.result()
    meanwhile()
    pack_once()
    newest = following or now
    graded, minibatches = packed[0]
    drawn = dataclasses.replace(drawn, graded=graded, next=newest.next, carried=newest.carried)
    return drawn, minibatches, following


def are_in(verdicts: Future[Drawn]) -> bool:
    """Whether to pack now. That gives the devices work too, which all processes must give them at
    the same place, so the first one decides: it has the verdicts of all, who can have them too."""
    return cluster.from_first(verdicts.done, "verdicts are in")


def one_older(sampled: Sampled, step: int) -> Sampled:
    """Sampled by the policy before the one that will learn from it."""
    rollouts = sampled.rollouts
    if rollouts is None:
        return sampled
    # What was begun at step 0 is of the first policy, however it is counted.
    steps_R = np.minimum(np.asarray(rollouts.staleness) + 1, step).astype(np.int32)
    metrics = {
        **sampled.metrics,
        "rollout/staleness_mean": float(steps_R.mean()),
        "rollout/staleness_max": float(steps_R.max()),
    }
    rollouts = dataclasses.replace(rollouts, staleness=steps_R)
    return dataclasses.replace(sampled, rollouts=rollouts, metrics=metrics)


def oldest_step(sampled: Sampled, step: int) -> int:
    """The step by whose policy any of the samples that `step` learns from was begun."""
    rollouts = sampled.rollouts
    return step if rollouts is None else step - int(np.max(np.asarray(rollouts.staleness)))


# For a checkpoint: what was drawn, and not the verdicts, which may not be in. They are asked for
# again, as those of a step that is done again are.


def ahead_arrays(setup: Setup, sampled: Sampled | None) -> dict[str, np.ndarray]:
    config = setup.config
    if sampled is None or sampled.rollouts is None:
        return carried_arrays(config, None)
    rollouts = sampled.rollouts
    complete = np.ones(len(rollouts.lengths), bool)
    return carried_arrays(
        config, Carried(rollouts, complete, np.zeros(len(rollouts.prompts), np.int32))
    )


def ahead_notes(sampled: Sampled | None) -> dict[str, Any] | None:
    if sampled is None:
        return None
    known = sampled.rates
    rates = known if known is None else [[at, known[at]] for at in known if np.isfinite(known[at])]
    return {"tokens": sampled.tokens, "metrics": dict(sampled.metrics), "rates": rates}


def read_ahead(
    setup: Setup, feed: Feed, step: int, arrays: Mapping[str, Any], notes: Mapping[str, Any]
) -> Sampled:
    """What a checkpoint has of the samples of a step; their verdicts are on the way again."""
    rollouts = read_carried(setup, arrays).rollouts
    rows, rates = range(len(rollouts.lengths)), notes["rates"]
    return Sampled(
        rollouts if len(rows) else None,
        submit(setup, rollouts, rows, step) if len(rows) else [],
        next=feed.next,
        tokens=notes["tokens"],
        metrics=notes["metrics"],
        rates=None if rates is None else dict(rates),
        carried=feed.carried,
    )
