"""Which groups a step learns from: dynamic sampling and its alternatives, overlong filter."""

import functools
from unittest import mock

import jax
import numpy as np
import pytest
from helpers import quick_compiles

from r1jax import mesh as mesh_lib
from r1jax.config import from_config_dict
from r1jax.errors import UserError
from r1jax.monitor.clock import Clock
from r1jax.training import dynamic
from r1jax.training.ahead import sample_step
from r1jax.training.batches import rl_batch_shape
from r1jax.training.learning import (
    compute_advantages,
    flat_verdicts,
    make_minibatches,
    with_zero_variance,
)
from r1jax.training.sampling import Feed, judged, make_ready
from r1jax.training.session import Session
from r1jax.training.setup import fresh_params, make_setup
from r1jax.training.step import forward
from r1jax.types import Graded

GROUP = 4
START = Feed()
MICRO = {
    "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32},
    "data": {"size": 3, "max_prompt_tokens": 4},
    "sampling": {"max_tokens": 6},
    "mesh": {"data": 1},
}
RL = {"prompts_per_step": 3, "samples_per_prompt": GROUP}


def is_correct(sample):
    """A fresh model answers nothing right, so the verdict is that of a coin, keyed by sample."""
    return bool(np.random.default_rng([*sample.key, 1]).random() < 0.12)


@pytest.fixture(autouse=True)
def _coin(monkeypatch):
    judgement = dynamic.Sample.__dataclass_fields__["accuracy"].default
    kind = type(judgement)

    def at_once(sample, _name):
        calls.append(sample.key)
        right = is_correct(sample)
        return kind(float(right), correct=right)

    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr("r1jax.rewards.verifiers.at_once", at_once)
    return calls


@pytest.fixture
def calls(_coin):
    return _coin


def session_of(setup):
    session = mock.Mock(spec=Session)
    session.setup, session.clock = setup, Clock()
    return session


def make(dynamic=None, sampling=None, **rl):
    wanted = {"mode": "refill", "budget": 20, **(dynamic or {})}
    changes = {"sampling": {**MICRO["sampling"], **(sampling or {})}}
    config = from_config_dict({**MICRO, **changes, "rl": {**RL, **rl, "dynamic": wanted}})
    return session_of(make_setup(config))


def draw(session, feed=START, step=0, meanwhile=lambda: None):
    setup = session.setup
    with quick_compiles(), mesh_lib.use(setup.mesh):
        ready = make_ready(setup, fresh_params(setup))
        sampled = sample_step(session, ready, feed, step, meanwhile=meanwhile)
        return judged(setup, sampled)


@functools.cache
def accuracies_by_hand(count):
    """The share of right answers of each of the first prompts, all of them sampled."""
    whole = draw(make({"mode": "off"}, prompts_per_step=count))
    return whole.graded.correct.reshape(count, GROUP).mean(axis=1), whole.graded


@pytest.mark.parametrize("band", [(0.0, 1.0), (0.3, 1.0)])
def test_a_step_gets_the_first_groups_whose_accuracy_is_in_the_band(band, calls):
    accuracy, whole = accuracies_by_hand(40)
    good = np.flatnonzero((accuracy > band[0]) & (accuracy < band[1]))[:3]
    assert good[-1] > 2  # some were passed over
    calls.clear()
    told = []
    drawn = draw(make({"band": band}), meanwhile=lambda: told.append(len(calls)))
    assert drawn.graded.rollouts.prompts.ids.tolist() == good.tolist()
    assert (drawn.next, drawn.carried) == (good[-1] + 1, None)
    assert drawn.metrics["dynamic/tried"] == good[-1] + 1
    assert drawn.metrics["dynamic/accept_rate"] == pytest.approx(3 / (good[-1] + 1))
    assert drawn.metrics["dynamic/accuracy"] == pytest.approx(accuracy[: good[-1] + 1].mean())
    assert drawn.metrics["dynamic/enough"] == 1
    rows = (good[:, None] * GROUP + np.arange(GROUP)).reshape(-1)
    np.testing.assert_array_equal(drawn.graded.rewards, whole.rewards[rows])
    assert drawn.graded.texts == tuple(whole.texts[row] for row in rows)
    assert len(calls) == len(set(calls))  # nothing is judged twice
    assert drawn.tokens >= whole.rollouts.lengths[: (good[-1] + 1) * GROUP].sum()
    assert told[0] == 0  # before anything is waited for


def test_the_verdict_decides_and_not_the_shaped_reward():
    """Rewards that differ within every group do not make a group worth learning from."""
    session = make()
    weights = {"accuracy": 1.0, "random": 1.0}
    tree = {**MICRO, "rl": {**RL, "dynamic": {"mode": "refill", "budget": 20}}}
    other = session_of(make_setup(from_config_dict({**tree, "reward_weights": weights})))
    ids = [draw(s).graded.rollouts.prompts.ids.tolist() for s in (session, other)]
    assert ids[0] == ids[1]


def test_what_was_begun_goes_on_in_the_next_step(calls):
    carrying = make({"carry": True}, prompts_per_step=4)
    config = carrying.setup.config
    first = draw(carrying, Feed(carried=dynamic.no_groups(config, 6)))
    # The same groups to learn from as without.
    plain = draw(make(prompts_per_step=4))
    ids = first.graded.rollouts.prompts.ids.tolist()
    assert ids == plain.graded.rollouts.prompts.ids.tolist()
    carried = first.carried
    held = carried.rollouts.prompts.ids.tolist()
    assert first.metrics["dynamic/carried"] == len(held) > 0
    # The stream has no gap and no prompt twice.
    assert held == list(range(plain.next, plain.next + len(held)))
    assert first.next == held[-1] + 1
    assert not carried.complete.all()
    calls.clear()
    second = draw(carrying, Feed(first.next, carried=carried), step=1)
    tried = int(second.metrics["dynamic/tried"])
    assert {key[-2] for key in calls} >= set(range(held[0], held[0] + tried))
    graded = second.graded.rollouts
    old = [at for at, place in enumerate(graded.prompts.ids) if place in held]
    for at in old:  # what was sampled before stays as it was
        row, before = at * GROUP, held.index(graded.prompts.ids[at]) * GROUP
        for sample in range(GROUP):
            taken = slice(carried.rollouts.lengths[before + sample])
            np.testing.assert_array_equal(
                graded.logp[row + sample, taken], carried.rollouts.logp[before + sample, taken]
            )
    assert sorted(set(graded.staleness[: len(old) * GROUP])) == ([1] if old else [])
    # From a checkpoint it is the same step.
    arrays = dynamic.carried_arrays(config, carried)
    again = dynamic.read_carried(carrying.setup, arrays)
    third = draw(carrying, Feed(first.next, carried=again), step=1)
    assert third.graded.texts == second.graded.texts
    np.testing.assert_array_equal(third.graded.rewards, second.graded.rewards)
    np.testing.assert_array_equal(third.graded.rollouts.logp, graded.logp)
    assert (third.next, third.metrics) == (second.next, second.metrics)


def test_what_could_have_been_drawn_is_carried_too():
    sampling = {"top_k": 2, "record_kept": True}
    carrying = make({"carry": True}, prompts_per_step=4, sampling=sampling)
    config = carrying.setup.config
    first = draw(carrying, Feed(carried=dynamic.no_groups(config, 6)))
    arrays = dynamic.carried_arrays(config, first.carried)
    again = dynamic.read_carried(carrying.setup, arrays)
    assert (again.rollouts.kept >= 0).any()
    np.testing.assert_array_equal(again.rollouts.kept, first.carried.rollouts.kept)


def test_nothing_is_carried_into_a_stage_of_another_length():
    carrying = make({"carry": True}, prompts_per_step=4, stages=((1, 5, 1.0),))
    config = carrying.setup.config
    first = draw(carrying, Feed(carried=dynamic.no_groups(config, 6)))
    held = first.carried.rollouts.prompts.ids.tolist()
    feed = dynamic.carry_alike(carrying.setup, Feed(first.next, carried=first.carried), 1)
    assert (feed.next, len(feed.carried)) == (held[0], 0)
    assert dynamic.carry_alike(carrying.setup, feed, 1) is feed


def test_a_spent_budget_trains_on_what_there_is_or_ends():
    accuracy, _ = accuracies_by_hand(40)
    is_good = (accuracy > 0) & (accuracy < 1)
    first = next(at for at in range(38) if 0 < is_good[at : at + 3].sum() < 3)
    good = first + np.flatnonzero(is_good[first : first + 3])
    session = make({"budget": 1})
    drawn = draw(session, Feed(next=first))
    assert (drawn.metrics["dynamic/tried"], drawn.metrics["dynamic/enough"]) == (3, 0)
    assert drawn.graded.rollouts.prompts.ids.tolist() == good.tolist()
    config = session.setup.config
    shape = rl_batch_shape(config, session.setup.mesh, "xla")
    ((batch, used, _),) = make_minibatches(config, shape, drawn.graded, 0)
    assert batch.tokens.shape == (
        shape.rows // shape.rows_per_micro,
        shape.rows_per_micro,
        shape.row_length,
    )
    assert batch.mask[:used].sum() == drawn.graded.rollouts.lengths.sum()
    assert np.abs(compute_advantages(config, drawn.graded)).max() > 0
    with pytest.raises(UserError, match=rf"{len(good)} of 3 groups after 3 prompts"):
        draw(make({"budget": 1, "exhausted": "stop"}), Feed(next=first))


def minibatches_of(session, drawn):
    config = session.setup.config
    shape = rl_batch_shape(config, session.setup.mesh, "xla")
    return make_minibatches(config, shape, drawn.graded, 0)


def test_no_group_in_the_band_is_a_step_without_an_update():
    session = make({"budget": 1, "band": (0.99, 1.0)})
    drawn = draw(session)
    assert drawn.graded is None
    assert drawn.metrics["dynamic/accept_rate"] == 0
    assert minibatches_of(session, drawn) == []


def test_a_verifier_that_judges_nothing_stops_the_run(monkeypatch):
    judgement = dynamic.Sample.__dataclass_fields__["accuracy"].default
    monkeypatch.setattr("r1jax.rewards.verifiers.at_once", lambda *_: judgement)
    with pytest.raises(UserError, match=r"none of .* samples could be judged"):
        draw(make({"budget": 2}))


@pytest.mark.parametrize("epochs", [1, 2])
def test_cut_responses_are_out_of_the_loss_and_epochs_see_all(epochs):
    session = make(
        {"mode": "off"}, mask_cut=True, prompts_per_step=6, epochs=epochs, updates_per_step=2
    )
    drawn = draw(session)
    finished = drawn.graded.rollouts.finished
    assert finished.any()
    assert not finished.all()
    batches = minibatches_of(session, drawn)
    counted = drawn.graded.rollouts.lengths[finished].sum()
    assert len(batches) == 2 * epochs
    for epoch in range(epochs):
        pair = batches[2 * epoch : 2 * epoch + 2]
        assert sum(int(each.batch.mask.sum()) for each in pair) == counted
        assert sorted(np.concatenate([each.rows for each in pair])) == list(range(24))
    # They still count in the statistics of their group: the reward is unchanged.
    assert drawn.graded.valid.all()
    if epochs == 2:  # dealt anew
        assert not np.array_equal(batches[0].batch.targets, batches[2].batch.targets)


def test_dropped_groups_are_in_no_batch_and_in_no_statistic():
    accuracy, _ = accuracies_by_hand(40)
    count = 12
    is_good = (accuracy[:count] > 0) & (accuracy[:count] < 1)
    assert is_good.any()
    assert not is_good.all()
    options = {"prompts_per_step": count, "advantage_scale": "batch_std"}
    session = make({"mode": "drop"}, **options)
    drawn = draw(session)
    (minibatch,) = minibatches_of(session, drawn)
    lengths = drawn.graded.rollouts.lengths.reshape(count, GROUP)
    assert minibatch.batch.mask.sum() == lengths[is_good].sum()
    assert set(minibatch.rows // GROUP) == set(np.flatnonzero(is_good))
    advantages = compute_advantages(session.setup.config, drawn.graded).reshape(count, GROUP)
    rewards = np.float64(drawn.graded.rewards.reshape(count, GROUP)[is_good])
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        advantages[is_good], centred / (rewards.std(ddof=1) + 1e-6), rtol=1e-5
    )
    assert not advantages[~is_good].any()


def test_flat_groups_are_told_by_reward_and_verdict():
    session = make({"mode": "zvp"}, prompts_per_step=5, samples_per_prompt=2)
    graded = mock.Mock(
        spec=Graded,
        rewards=np.float32([1, 1, 0, 0, 0.1, 0, 1, 0, 1.1, 1]),
        valid=np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 1], bool),
        correct=np.array([1, 1, 0, 0, 0, 0, 1, 0, 1, 1], bool),
    )
    assert flat_verdicts(session.setup.config, graded).tolist() == [1, -1, 0, 1, 0]


def test_flat_groups_teach_by_their_entropy():
    session = make({"mode": "zvp", "zvp_alpha": 0.5}, prompts_per_step=6)
    setup = session.setup
    drawn = draw(session)
    (minibatch,) = minibatches_of(session, drawn)
    params = fresh_params(setup)
    verdicts = np.float32([0, 1, -1, 0, 0, 1])
    batch = setup.place(minibatch.batch)
    shaped = with_zero_variance(setup, params, batch, minibatch.used, 1.0, verdicts).advantages
    for micro in range(minibatch.used):
        one = jax.tree.map(lambda leaf, at=micro: leaf[at], batch)
        entropy = np.asarray(forward(setup.module, params, one, 1.0).entropy)
        one = jax.device_get(one)
        for row, segment in zip(*np.nonzero(np.asarray(one.sequence_ids)), strict=True):
            at = np.asarray(one.sequence_ids[row] == one.sequence_ids[row, segment]) & one.mask[row]
            verdict = int(verdicts[int(one.prompt_ids[row, segment])])
            expected = {
                0: one.advantages[row][at],
                1: 0.5 * entropy[row][at],
                -1: -0.5 * (entropy[row][at].max(initial=0) - entropy[row][at]),
            }[verdict]
            np.testing.assert_allclose(shaped[micro, row][at], expected, rtol=1e-5, atol=1e-6)
