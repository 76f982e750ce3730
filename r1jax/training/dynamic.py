"""DAPO's dynamic sampling (arXiv 2503.14476, section 3.2): prompts of middling difficulty only.

A group whose answers are all right or all wrong has no advantage to learn from. So prompts are
drawn until a step has `prompts_per_step` groups with their share of correct answers in an open
band, by the verdict and not by the shaped reward: a length penalty would make every group differ.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax import rollout
from r1jax.config import Config, RLConfig
from r1jax.errors import UserError
from r1jax.rewards.grader import Pending
from r1jax.rewards.samples import Sample
from r1jax.rollout import Carried, Groups
from r1jax.rollout.plan import RolloutConfig, choose_slots
from r1jax.training.grading import judge_together, make_samples
from r1jax.training.sampling import Feed, Pieces, Sampled
from r1jax.training.session import Session
from r1jax.training.setup import Setup
from r1jax.types import Params, PromptBatch, Rollouts


class Judged(NamedTuple):
    """The verdicts on one prompt's group."""

    samples: list[Sample]
    accuracy: float  # NaN = nobody could judge any
    tokens: int


def sample_band(
    session: Session, ready: Params, feed: Feed, step: int, *, meanwhile: Callable[[], None]
) -> Sampled:
    """The first groups within the band, of those carried from the step before and then the stream.

    The order of the stream decides, not which group is done first: the seed, the step, the
    parameters and `feed` say everything. `meanwhile` is called, again and again, while the device
    samples.
    """
    setup, clock = session.setup, session.clock
    feed = carry_alike(setup, feed, step)
    stream = Stream(setup, feed)
    known: dict[int, Judged] = {}

    def accept(group: Rollouts) -> bool:
        meanwhile()  # a group is done, and the device busy with others
        with clock("grade"):
            verdict = known[int(group.prompts.ids[0])] = judge(setup, group, step)
        low, high = setup.config.rl.dynamic.band
        return low < verdict.accuracy < high

    with clock("rollout"):
        groups = sample_groups(setup, ready, feed, stream, accept, step)
    tried = [known[place] for place in stream.places[: groups.tried]]
    setup.grader.require_some_verdicts([s for group in tried for s in group.samples])
    if not groups.enough and setup.config.rl.dynamic.exhausted == "stop":
        raise not_enough(setup.config.rl, groups, step)
    carried = carry(setup.config.rl, groups.carried, stream.places[groups.tried :])
    used = groups.tried + (0 if carried is None else len(carried))
    return Sampled(
        groups.rollouts if len(groups.rollouts.prompts) else None,
        pieces_of(groups.rollouts, known),
        next=stream.places[used - 1] + 1,
        tokens=sum(group.tokens for group in known.values()),
        metrics={**metrics_of(groups, tried, carried), **groups.stats},
        rates={place: known[place].accuracy for place in stream.places[: groups.tried]},
        carried=carried,
    )


class Stream:
    """The prompts from `feed.next` on; `places` are of all prompts, those carried before them."""

    def __init__(self, setup: Setup, feed: Feed) -> None:
        self.places = [] if feed.carried is None else feed.carried.rollouts.prompts.ids.tolist()
        self._setup, self._unused = setup, setup.train_places(feed.next, feed.rates)

    def __iter__(self) -> Iterator[PromptBatch]:
        """First what a step wants, then a few at a time, as what is read is sampled."""
        wanted = self._setup.config.rl.prompts_per_step
        for count in itertools.chain([wanted], itertools.repeat(max(1, wanted // 4))):
            places = list(itertools.islice(self._unused, count))
            self.places += places
            yield self._setup.prompts_at("train", places)


def sample_groups(
    setup: Setup,
    ready: Params,
    feed: Feed,
    stream: Stream,
    accept: Callable[[Rollouts], bool],
    step: int,
) -> Groups:
    config, rl = setup.config, setup.config.rl
    return rollout.generate_groups(
        setup.module,
        ready,
        stream,
        accept,
        want=rl.prompts_per_step,
        budget=rl.dynamic.budget * rl.prompts_per_step,
        longest_prompt=config.data.max_prompt_tokens,
        sampling=setup.sampling_at(step),
        samples_per_prompt=rl.samples_per_prompt,
        seed=config.seed,
        step=step,
        config=slots_of_a_step(setup),
        decode_text=setup.decode_text,
        carried=feed.carried,
        carry=rl.dynamic.carry,
    )


def slots_of_a_step(setup: Setup) -> RolloutConfig:
    """Slots for the wanted groups, not for the whole budget: others follow as these fall idle."""
    config, rl = setup.config.rollout, setup.config.rl
    samples = rl.prompts_per_step * rl.samples_per_prompt
    wanted = choose_slots(samples, may_end=True, has_tail=False)  # slots are filled to the end
    return dataclasses.replace(config, slots=config.slots or wanted)


def judge(setup: Setup, group: Rollouts, step: int) -> Judged:
    """Grade one group, to the end: the device samples on meanwhile."""
    samples = make_samples(
        group,
        range(len(group.lengths)),
        tokenizer=setup.tokenizer,
        opened_by_prompt=setup.opened_by_prompt,
        run_key=(setup.config.seed, step),
    )
    samples = judge_together(samples, setup.grader)
    known = [s.correct for s in samples if s.accuracy.score is not None]
    accuracy = float(np.mean(known)) if known else float("nan")
    return Judged(samples, accuracy, int(group.lengths.sum()))


def pieces_of(rollouts: Rollouts, known: Mapping[int, Judged]) -> Pieces:
    """The accepted groups' verdicts, which are in: nothing is judged again."""
    places = rollouts.prompts.ids.tolist()
    size = rollouts.samples_per_prompt if places else 0
    return [
        (range(at * size, (at + 1) * size), Pending(known[place].samples, deadline=0.0))
        for at, place in enumerate(places)
    ]


def not_enough(rl: RLConfig, groups: Groups, step: int) -> UserError:
    return UserError(
        f"rl step {step}: {len(groups.rollouts.prompts)} of {rl.prompts_per_step} groups after "
        f"{groups.tried} prompts, all that config.rl.dynamic.budget allows. Give easier or harder "
        "questions or another rl.dynamic.band; with rl.dynamic.exhausted=fewer a run trains on "
        "what there is. The last checkpoint is kept"
    )


def metrics_of(
    groups: Groups, tried: Sequence[Judged], carried: Carried | None
) -> dict[str, float]:
    return {
        "dynamic/accept_rate": len(groups.rollouts.prompts) / len(tried),
        "dynamic/accuracy": float(np.mean([s.correct for group in tried for s in group.samples])),
        "dynamic/tried": groups.tried,
        "dynamic/sampled": groups.sampled,
        "dynamic/enough": float(groups.enough),
        "dynamic/carried": 0 if carried is None else len(carried),
    }


# What is carried to the next step: the first groups begun beyond those wanted, as many as a step
# wants at most. The prompts of others come round again.


def carry(rl: RLConfig, begun: Carried, places: Sequence[int]) -> Carried | None:
    """`places`: of all prompts behind those tried, begun or not."""
    if not rl.dynamic.carry:
        return None
    in_turn = zip(begun.rollouts.prompts.ids.tolist(), places, strict=False)
    count = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], in_turn))
    count = min(rl.prompts_per_step, count)
    rows = count * rl.samples_per_prompt
    rollouts = rollout.take_groups(begun.rollouts, range(count)) if count else begun.rollouts
    return Carried(rollouts, begun.complete[:rows], begun.began[:count])


def carry_alike(setup: Setup, feed: Feed, step: int) -> Feed:
    """Nothing is carried into a stage of another length: those prompts are begun anew."""
    carried = feed.carried
    width = setup.sampling_at(step).max_tokens
    if carried is None or carried.rollouts.tokens.shape[1] == width:
        return feed
    return feed._replace(
        next=min([feed.next, *carried.rollouts.prompts.ids.tolist()]),
        carried=no_groups(setup.config, width),
    )


def no_groups(config: Config, width: int) -> Carried:
    sampling = config.sampling
    both = sampling.return_logp == "both"
    rollouts = Rollouts(
        PromptBatch(np.zeros(0, np.int64), (), ()),
        tokens=np.zeros((0, width), np.int32),
        logp=np.zeros((0, width), np.float32),
        lengths=np.zeros(0, np.int32),
        finished=np.zeros(0, bool),
        logp_plain=np.zeros((0, width), np.float32) if both else None,
        kept=np.zeros((0, width, sampling.top_k), np.int32) if sampling.record_kept else None,
        staleness=np.zeros(0, np.int32),
    )
    return Carried(rollouts, np.zeros(0, bool), np.zeros(0, np.int32))


def carried_arrays(config: Config, carried: Carried | None) -> dict[str, np.ndarray]:
    """For a checkpoint: of one shape, however many groups there are."""
    prompts, group = config.rl.prompts_per_step, config.rl.samples_per_prompt
    rows, longest = prompts * group, config.sampling.max_tokens
    arrays = {
        "places": np.full(prompts, -1, np.int32),
        "began": np.zeros(prompts, np.int32),
        "width": np.zeros((), np.int32),
        "tokens": np.zeros((rows, longest), np.int32),
        "logp": np.zeros((rows, longest), np.float32),
        "lengths": np.zeros(rows, np.int32),
        "finished": np.zeros(rows, np.uint8),
        "complete": np.zeros(rows, np.uint8),
        "staleness": np.zeros(rows, np.int32),
    }
    if config.sampling.return_logp == "both":
        arrays["logp_plain"] = np.zeros((rows, longest), np.float32)
    if config.sampling.record_kept:
        arrays["kept"] = np.full((rows, longest, config.sampling.top_k), -1, np.int32)
    if carried is not None:
        found = {**vars(carried.rollouts), **vars(carried)}
        found["places"], found["width"] = found["prompts"].ids, np.array(found["tokens"].shape[1])
        for name, room in arrays.items():
            room[tuple(map(slice, found[name].shape))] = found[name]
    return arrays


def read_carried(setup: Setup, arrays: Mapping[str, Any]) -> Carried:
    found = {name: np.asarray(values) for name, values in arrays.items()}
    places = found["places"][found["places"] >= 0]
    rows = len(places) * setup.config.rl.samples_per_prompt
    width = int(found["width"])
    more = {name: found[name][:rows, :width] for name in ("logp_plain", "kept") if name in found}
    rollouts = Rollouts(
        setup.prompts_at("train", places.tolist()),
        tokens=found["tokens"][:rows, :width],
        logp=found["logp"][:rows, :width],
        lengths=found["lengths"][:rows],
        finished=found["finished"][:rows].astype(bool),
        staleness=found["staleness"][:rows],
        **more,
    )
    complete = found["complete"][:rows].astype(bool)
    return Carried(rollouts, complete, found["began"][: len(places)])
