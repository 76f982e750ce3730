"""Responses that are carried to a later rollout are what they would have been without the stop."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers import counted_compiles
from test_generate import SAMPLING, WAYS, letters, start, tiny
from test_groups import SAMPLES, by_hand, mixed, run

from r1jax import mesh as mesh_lib
from r1jax.models.axes import logical_axes
from r1jax.rollout import RolloutConfig, dispatch, prepare_params, take_groups
from r1jax.rollout.engine import as_prompt_batch
from r1jax.types import PromptBatch

MANY_PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [2, 2], [7] * 9, [3, 1, 2], [8]]
LONG = dataclasses.replace(
    SAMPLING, max_tokens=20, stop_ids=(0, 5), return_logp="both", top_k=9, record_kept=True
)
STRINGS = dataclasses.replace(LONG, stop_strings=("bf", "rs", "wxy", "ml"))
COPIED = RolloutConfig(share_prompts="never", slots=5, chunk=2)
FRESH = PromptBatch(np.zeros(0, np.int64), (), ())


@functools.cache
def whole(strings=False, step=0):
    sampling = STRINGS if strings else LONG
    return start(MANY_PROMPTS, sampling=sampling, decode_text=letters, step=step).collect()


def go_on(carried, step, *, params=None, config=COPIED, sampling=LONG, prompts=FRESH):
    module, plain = tiny()
    return dispatch(
        module,
        prepare_params(module.config, plain if params is None else params),
        prompts,
        sampling=sampling,
        samples_per_prompt=3,
        seed=0,
        step=step,
        config=config,
        decode_text=letters,
        carried=carried,
    )


def stop_after(flight, looks):
    """Rows told of, in order."""
    told = []
    for look, rows in enumerate(flight.finished()):
        told += rows.tolist()
        if look == looks:
            return told + flight.stop().tolist()
    return told


def assert_rows_are(got, wanted, rows=slice(None), of=slice(None)):
    for name in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(got, name)[of], getattr(wanted, name)[rows])
    np.testing.assert_array_equal(np.sort(got.kept[of]), np.sort(wanted.kept[rows]))
    for name in ("logp", "logp_plain"):
        np.testing.assert_allclose(getattr(got, name)[of], getattr(wanted, name)[rows], atol=1e-5)


OTHER_WAYS = {
    "few slots": (COPIED, (0, 2, 1)),
    "one look each": (COPIED, (0,) * 30),
    "stopped while prompts wait": (dataclasses.replace(COPIED, bank_tokens=32), (1, 4, 4)),
    "drafts": (RolloutConfig(speculate="ngram", ngram=1, draft_tokens=2, slots=6, chunk=2), (1, 2)),
    "a shared prompt at first": (WAYS["a shared prompt, few slots"], (2, 3)),
    "a tail": (RolloutConfig(chunk=3, tail_from=1), (2, 1)),
}


@pytest.mark.parametrize(
    "sampling", [pytest.param(LONG, marks=pytest.mark.slow), STRINGS], ids=["ids", "strings"]
)
@pytest.mark.parametrize(
    "way",
    [
        way if way == "few slots" else pytest.param(way, marks=pytest.mark.slow)
        for way in OTHER_WAYS
    ],
)
def test_an_unchanged_policy_gives_the_uninterrupted_responses(way, sampling):
    """Of the step in which they began; stopped several times, and the step counts on."""
    config, stops = OTHER_WAYS[way]
    flight = start(MANY_PROMPTS, sampling=sampling, config=config, decode_text=letters)
    unfinished = []
    for step, looks in enumerate((*stops, 10**6), start=1):
        told = stop_after(flight, looks)
        assert len(told) == len(set(told))
        assert sorted(told) == np.flatnonzero(flight.complete).tolist()
        if flight.complete.all():
            break
        before = flight.rollouts
        unfinished.append(int((~flight.complete & (before.lengths > 0)).sum()))
        carried = flight.carry(range(len(MANY_PROMPTS)))
        flight = go_on(carried, step, config=config, sampling=sampling)
    assert max(unfinished) > 2
    staleness = flight.rollouts.staleness
    assert staleness.max() == step - 1 > 0
    for age in set(staleness.tolist()):
        rows = staleness == age
        wanted = whole(sampling is STRINGS, step - 1 - age)
        assert_rows_are(flight.rollouts, wanted, rows, of=rows)


def test_what_was_sampled_keeps_its_log_probs_when_the_policy_changes():
    """Bit for bit; what comes behind is the new policy's, which read all before."""
    flight = start(MANY_PROMPTS, sampling=LONG, config=COPIED)
    stop_after(flight, 3)
    had, rows = flight.rollouts, np.flatnonzero(~flight.complete)
    carried = flight.carry(range(len(MANY_PROMPTS)))
    module, params = tiny()
    other = jax.tree.map(lambda leaf: leaf * 1.05, params)
    got = go_on(carried, 1, params=other).collect()
    lengths = np.where(flight.complete, had.lengths, carried.rollouts.lengths)
    assert (lengths[rows] > 0).sum() > 2
    for row, length in enumerate(lengths):
        for name in ("tokens", "logp", "logp_plain", "kept"):
            before, after = getattr(had, name)[row], getattr(got, name)[row]
            np.testing.assert_array_equal(after[:length], before[:length])
    logits_of = jax.jit(functools.partial(module.apply, {"params": other}))
    checked = 0
    for row in rows[lengths[rows] > 0].tolist():
        prompt = MANY_PROMPTS[row // 3]
        text = np.zeros((1, 64), np.int32)
        text[0, : len(prompt) + got.lengths[row]] = [*prompt, *got.response(row)]
        logp = np.asarray(jax.nn.log_softmax(logits_of(text)[0]))
        for place in range(lengths[row], got.lengths[row]):
            wanted = logp[len(prompt) + place - 1, got.tokens[row, place]]
            np.testing.assert_allclose(got.logp_plain[row, place], wanted, atol=1e-5)
            checked += 1
    assert checked > 10


def test_complete_groups_are_learned_from_and_the_others_carried():
    """With new prompts beside those carried, as a training loop does it; staleness is counted."""
    tokens = tuple(np.array(prompt, np.int32) for prompt in MANY_PROMPTS)
    first = PromptBatch(np.arange(7), tokens, tuple({"at": at} for at in range(7)))
    flight = go_on(None, 0, prompts=first)
    for _ in flight.finished():
        if len(flight.complete_groups()) >= 2:
            flight.stop()
            break
    assert flight.rollouts.lengths.sum() >= flight.tokens > 20
    done = flight.complete_groups()
    learned = take_groups(flight.rollouts, done)
    assert_rows_are(learned, whole(), (done[:, None] * 3 + np.arange(3)).reshape(-1))
    left = [group for group in range(7) if group not in done]
    carried = flight.carry(left)
    ids = np.arange(7, 7 + len(done))
    more = PromptBatch(ids, tokens[: len(ids)], tuple({"at": at} for at in ids.tolist()))
    flight = go_on(carried, 1, prompts=more)
    got = flight.collect()
    assert got.prompts.ids.tolist() == [*left, *ids]
    assert [item["at"] for item in got.prompts.items] == [*left, *ids]
    begun = np.repeat(carried.begun, 3)
    assert begun.any()
    np.testing.assert_array_equal(got.staleness[: len(begun)], begun)
    assert not got.staleness[len(begun) :].any()
    rows = (np.array(left)[:, None] * 3 + np.arange(3)).reshape(-1)
    assert_rows_are(got, whole(), rows[begun], of=np.flatnonzero(begun))


def test_steps_of_as_many_groups_compile_nothing_more():
    def steps():
        flight = start(MANY_PROMPTS, sampling=LONG, config=COPIED)
        stop_after(flight, 1)
        for step in (1, 2, 3):
            carried = flight.carry(range(2, 7))
            prompts = as_prompt_batch(MANY_PROMPTS[:2])
            flight = go_on(carried, step, prompts=prompts)
            stop_after(flight, step)

    steps()
    with counted_compiles() as compiles:
        steps()
    assert compiles.count == 0


def test_other_rows_cannot_be_gone_on_with():
    flight = start(MANY_PROMPTS, sampling=LONG, config=COPIED)
    with pytest.raises(ValueError, match="stop the rollout before"):
        flight.carry([0])
    stop_after(flight, 0)
    assert not flight.stop().size
    carried = flight.carry([0, 1])
    for changes, message in (
        ({"max_tokens": 19}, "sampling.max_tokens=19: was 20 when"),
        ({"return_logp": "processed"}, "sampling.return_logp='processed': was the other"),
        ({"record_kept": False}, "sampling.record_kept of 0 tokens: was 9"),
    ):
        with pytest.raises(ValueError, match=message):
            go_on(carried, 1, sampling=dataclasses.replace(LONG, **changes))


def test_groups_beyond_those_wanted_are_carried_to_the_next_step():
    """Nothing sampled is lost: the steps together give what one large step gives."""
    wholes, good, _ = by_hand(9, budget=40)
    config = RolloutConfig(share_prompts="never", slots=12, chunk=3)
    taken, carried, got, sampled = 0, None, [], 0
    for _ in range(3):
        groups = run(
            want=3,
            budget=40,
            config=config,
            first=taken,
            sizes=(3,) * 20,
            carried=carried,
            carry=True,
        )
        fresh = groups.tried + len(groups.carried) - (len(carried) if carried else 0)
        taken, carried, sampled = taken + fresh, groups.carried, sampled + groups.sampled
        got.append(groups.rollouts)
    assert len(carried) > 0
    ids = np.concatenate([rollouts.prompts.ids for rollouts in got])
    assert ids.tolist() == good.tolist()
    rows = (good[:, None] * SAMPLES + np.arange(SAMPLES)).reshape(-1)
    tokens = np.concatenate([rollouts.tokens for rollouts in got])
    np.testing.assert_array_equal(tokens, wholes.tokens[rows])
    assert sampled <= taken * SAMPLES
    assert all(mixed(take_groups(rollouts, [0])) for rollouts in got)


@pytest.mark.slow
def test_eight_devices_carry_as_one_does():
    """Rows are a multiple of the devices, those that go on are not."""
    flight = start(MANY_PROMPTS, sampling=LONG, config=COPIED)
    stop_after(flight, 4)
    carried = flight.carry(range(len(MANY_PROMPTS)))
    assert 2 < len(carried.going()) < 21
    _, params = tiny()
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    with mesh_lib.use(mesh):
        shardings = mesh_lib.param_shardings(mesh, params, logical_axes(params))
        again = go_on(carried, 1, params=jax.device_put(params, shardings))
        stop_after(again, 1)
        last = go_on(again.carry(range(len(MANY_PROMPTS))), 2).collect()
    begun = np.repeat(carried.begun, 3)
    assert_rows_are(last, whole(), begun, of=begun)
