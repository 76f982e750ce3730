"""Dynamic sampling: the first accepted groups of a stream, whatever the device did when."""

import itertools

import numpy as np
import pytest
from helpers import counted_compiles, make_tiny

from r1jax.rollout import RolloutConfig, SamplingParams, generate, generate_groups, prepare_params
from r1jax.types import PromptBatch

SAMPLING = SamplingParams(max_tokens=10, stop_ids=(0, 3, 7))
SAMPLES = 3
DEFAULTS = RolloutConfig()
MODULE, PARAMS = make_tiny()


def prompt_at(index):
    return np.random.default_rng(index).integers(1, 24, 1 + index % 7).astype(np.int32)


def stream_of(sizes, first=0):
    """Batches of these sizes of the endless stream of prompts."""
    for size in sizes:
        ids = np.arange(first, first + size)
        yield PromptBatch(ids, tuple(map(prompt_at, ids)), tuple({"at": i} for i in ids.tolist()))
        first += size


def mixed(rollouts):
    """As DAPO's: some responses end themselves and some do not."""
    return 0 < rollouts.finished.sum() < SAMPLES


def run(want=4, budget=30, sizes=(3,) * 20, accept=mixed, config=DEFAULTS, first=0, **options):
    return generate_groups(
        MODULE,
        prepare_params(MODULE.config, PARAMS),
        stream_of(sizes, first),
        accept,
        want=want,
        budget=budget,
        longest_prompt=7,
        sampling=SAMPLING,
        samples_per_prompt=SAMPLES,
        seed=5,
        step=2,
        config=config,
        **options,
    )


def by_hand(want, budget=30):
    """(places accepted, prompts tried): each prompt's group sampled, one after the other."""
    (batch,) = stream_of([budget])
    whole = generate(
        MODULE,
        PARAMS,
        batch,
        sampling=SAMPLING,
        samples_per_prompt=SAMPLES,
        seed=5,
        step=2,
    )
    finished = whole.finished.reshape(-1, SAMPLES).sum(axis=1)
    good = np.flatnonzero((finished > 0) & (finished < SAMPLES))[:want]
    return whole, good, int(good[-1]) + 1


WAYS = {
    "defaults": {},
    "one slot": {"config": RolloutConfig(slots=1, chunk=3, share_prompts="never")},
    "many slots": {"config": RolloutConfig(slots=60, chunk=1, share_prompts="never")},
    "few prompts at a time": {"config": RolloutConfig(bank_tokens=32, slots=5)},
    "one prompt a batch": {"sizes": (1,) * 40},
    "one large batch": {"sizes": (50,)},
}
SLOW_WAYS = {"many slots", "one large batch"}


@pytest.mark.parametrize(
    "way",
    [pytest.param(w, marks=pytest.mark.slow if w in SLOW_WAYS else []) for w in WAYS],
)
def test_the_first_accepted_of_the_stream_are_returned(way):
    whole, good, tried = by_hand(4)
    assert tried > 4  # some are not accepted
    groups = run(**WAYS[way])
    assert groups.enough
    assert groups.tried == tried
    assert groups.rollouts.prompts.ids.tolist() == good.tolist()
    assert [item["at"] for item in groups.rollouts.prompts.items] == good.tolist()
    rows = (good[:, None] * SAMPLES + np.arange(SAMPLES)).reshape(-1)
    np.testing.assert_array_equal(groups.rollouts.tokens, whole.tokens[rows])
    np.testing.assert_array_equal(groups.rollouts.lengths, whole.lengths[rows])
    np.testing.assert_allclose(groups.rollouts.logp, whole.logp[rows], atol=1e-5)
    assert groups.sampled >= tried * SAMPLES


def test_the_next_step_goes_on_behind_what_was_tried():
    first = run(want=2)
    second = run(want=2, first=first.tried)
    both = run(want=4)
    ids = [*first.rollouts.prompts.ids, *second.rollouts.prompts.ids]
    assert ids == both.rollouts.prompts.ids.tolist()
    assert first.tried + second.tried == both.tried


def test_a_spent_budget_gives_what_there_is():
    groups = run(want=4, budget=4)
    _, good, _ = by_hand(4)
    assert not groups.enough
    assert groups.tried == 4
    assert groups.rollouts.prompts.ids.tolist() == [at for at in good if at < 4]


def test_a_stream_that_ends_early_gives_what_there_is():
    groups = run(want=20, sizes=(2, 3))
    assert (groups.enough, groups.tried, groups.sampled) == (False, 5, 5 * SAMPLES)


def test_batches_of_other_sizes_compile_nothing():
    run(sizes=(3,) * 10)
    with counted_compiles() as compiles:
        for sizes in [(1,) * 30, (2, 5, 1, 22), (4, 26), (30,)]:
            run(sizes=sizes)
    assert compiles.count == 0


def test_nothing_accepted_is_an_empty_result():
    groups = run(want=1, budget=3, accept=lambda _: False)
    assert (groups.enough, groups.tried) == (False, 3)
    assert len(groups.rollouts.prompts) == len(groups.rollouts.lengths) == 0


def test_each_group_is_judged_once_and_whole():
    judged = []

    def accept(rollouts):
        assert len(rollouts.lengths) == SAMPLES
        assert (rollouts.lengths > 0).all()
        judged.append(int(rollouts.prompts.ids[0]))
        return mixed(rollouts)

    run(accept=accept)
    assert len(judged) == len(set(judged))


def test_no_more_is_sampled_than_the_device_holds_beyond_what_is_needed():
    """The stream is read as slots fall idle, not far ahead."""
    taken = itertools.count()

    def counted():
        for batch in stream_of((1,) * 30):
            next(taken)
            yield batch

    groups = generate_groups(
        MODULE,
        prepare_params(MODULE.config, PARAMS),
        counted(),
        lambda _: True,
        want=2,
        budget=30,
        longest_prompt=7,
        sampling=SAMPLING,
        samples_per_prompt=SAMPLES,
        seed=5,
        config=RolloutConfig(slots=3, chunk=2),
    )
    assert groups.tried == 2
    assert next(taken) <= 6


@pytest.mark.parametrize("lanes", [1, 2])
def test_no_slot_is_idle_until_enough_groups_exist(lanes):
    """Others are begun where a group ends, which round after round would wait for its longest."""
    config = RolloutConfig(slots=12, chunk=2, lanes=lanes, share_prompts="never")
    groups = run(want=8, budget=60, config=config)
    assert groups.enough
    assert groups.tried > 12  # more than slots held at first, and than were wanted
    assert groups.stats["rollout/busy_share"] == 1
    whole, _, _ = by_hand(8)
    assert len({*whole.lengths.tolist()}) > 5  # not because all end together


@pytest.mark.parametrize(("want", "budget"), [(0, 3), (4, 3)])
def test_impossible_wishes_are_refused(want, budget):
    with pytest.raises(ValueError, match="want="):
        run(want=want, budget=budget)


def test_prompts_that_are_too_long_or_empty_are_refused():
    long, empty = np.ones(8, np.int32), np.zeros(0, np.int32)
    for tokens, message in ((long, "8 tokens, longest_prompt=7"), (empty, "is empty")):
        with pytest.raises(ValueError, match=message):
            generate_groups(
                MODULE,
                prepare_params(MODULE.config, PARAMS),
                [PromptBatch(np.arange(1), (tokens,), ({},))],
                mixed,
                want=1,
                budget=1,
                longest_prompt=7,
                sampling=SAMPLING,
                samples_per_prompt=SAMPLES,
                seed=0,
            )
