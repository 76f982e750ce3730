"""One step off: whose samples a step learns from, what they are counted as, and what they weigh."""

import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from loops import assert_same, kept, log, session_in, train

from r1jax import rollout
from r1jax.config import from_config_dict
from r1jax.errors import UserError
from r1jax.training import ahead, rl
from r1jax.training.setup import fresh_params, make_setup

TIS = {"correction": "tis", "correction_high": 2.0}
MICRO = {
    "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32},
    "data": {"size": 3, "max_prompt_tokens": 4},
    "sampling": {"max_tokens": 6},
    "reward_weights": {"random": 1.0},  # so that there is something to learn
    "objective": TIS,
    "optim": {"lr": 0.05},  # so that a step shows
    "mesh": {"data": 1},
    "checkpoint": {"every": 2},
}
RL = {"steps": 4, "prompts_per_step": 3, "samples_per_prompt": 4, "asynchronous": True}


def tree(**rl):
    return {**MICRO, "rl": {**RL, **rl}}


class Spy:
    """The policy at the start of each step, and the samples that it then learned from."""

    def __init__(self, monkeypatch):
        self.params, self.graded = [], []
        learn = rl.learn

        def told(setup, run, base, update_at, drawn, minibatches):
            self.params.append(jax.tree.map(np.array, run.state.params))
            self.graded.append(drawn.graded)
            return learn(setup, run, base, update_at, drawn, minibatches)

        monkeypatch.setattr(rl, "learn", told)


def sampled_by(setup, params, graded, step):
    return rollout.generate(
        setup.module,
        params,
        graded.rollouts.prompts,
        sampling=setup.sampling_at(step),
        samples_per_prompt=4,
        seed=setup.config.seed,
        step=step,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(workdir, final state, what each step saw) of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        return workdir, train(workdir, tree()), spy


def test_a_step_learns_from_the_policy_before_the_last_update(whole, tmp_path):
    workdir, _, spy = whole
    with session_in(tmp_path, tree()) as session:
        for step, graded in enumerate(spy.graded):
            by = [sampled_by(session.setup, p, graded, step) for p in spy.params]
            same = [np.array_equal(r.tokens, graded.rollouts.tokens) for r in by]
            wanted = max(step - 1, 0)
            assert same == [at == wanted or (wanted == 0 == at) for at in range(4)]
            np.testing.assert_array_equal(by[wanted].logp, graded.rollouts.logp)
    # No prompt twice, none left out.
    ids = [graded.rollouts.prompts.ids.tolist() for graded in spy.graded]
    assert np.concatenate(ids).tolist() == list(range(12))
    # Counted as one step, and one update, old.
    lines = log(workdir)
    assert [line["staleness/max"] for line in lines] == [0, 1, 1, 1]
    assert [line["rollout/staleness_mean"] for line in lines] == [0, 1, 1, 1]
    assert lines[0]["sampling/sampling_logp_difference/mean"] < 1e-5
    assert all(line["sampling/sampling_logp_difference/mean"] > 1e-3 for line in lines[1:])
    # The weight is the policy's, as it is now, against the one that sampled.
    assert all(line["ratio/max"] == 1 for line in lines)
    weights = [line["sampling/importance_sampling_ratio/mean"] for line in lines]
    assert weights[0] == pytest.approx(1, abs=1e-5)
    assert all(abs(weight - 1) > 1e-5 for weight in weights[1:])


def test_resumed_it_is_the_same_run(whole, tmp_path):
    """From what a checkpoint has of the samples that were waiting."""
    workdir, state, _ = whole
    parts = tmp_path / "parts"
    shutil.copytree(workdir, parts)
    shutil.rmtree(parts / "checkpoints/rl/4")
    with pytest.MonkeyPatch.context() as patch:
        told = Spy(patch)
        again = train(parts, tree())
    assert len(told.params) == 2  # of four
    assert_same((again.params, again.opt_state), (state.params, state.opt_state))
    assert kept(parts) == kept(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"updates_per_step": 2, "epochs": 2},
        {"dynamic": {"mode": "refill", "budget": 20, "carry": True}},
        # No group is good enough.
        {"dynamic": {"mode": "refill", "budget": 1, "band": (0.99, 1.0)}},
    ],
)
def test_resumed_it_is_the_same_run_with_more(tmp_path, monkeypatch, more):
    undisturbed, parts = tmp_path / "undisturbed", tmp_path / "parts"
    config = tree(steps=6, **more)
    state = train(undisturbed, config)
    train(parts, config, until=3)  # one step is done again
    told = Spy(monkeypatch)
    again = train(parts, config)
    assert len(told.params) == 4  # of six
    assert_same((again.params, again.opt_state), (state.params, state.opt_state))
    assert kept(parts) == kept(undisturbed)


@pytest.mark.slow
def test_several_updates_are_against_the_policy_before_the_first(tmp_path, monkeypatch):
    """The clip's ratio is of the step's own updates; the weight is what the sampler is behind."""
    batches, make = [], rl.make_rl_update

    def spy(setup, *options):
        update = make(setup, *options)

        def told(state, batch, used):
            logp = np.asarray(
                rl.with_old_policy(setup, state.params, batch, int(used), 1.0).logp_old
            )
            batches.append((jax.tree.map(np.asarray, batch), logp))
            state, stats = update(state, batch, used)
            stats_seen.append(jax.tree.map(float, stats))
            return state, stats

        return told

    stats_seen = []
    monkeypatch.setattr(rl, "make_rl_update", spy)
    train(tmp_path, tree(steps=2, updates_per_step=2))
    (first, logp), (second, moved) = batches[2:]
    for batch in (first, second):
        assert not np.allclose(batch.logp_old[batch.mask], batch.logp_behavior[batch.mask])
    np.testing.assert_array_equal(first.logp_old[first.mask], logp[first.mask])
    assert not np.allclose(second.logp_old[second.mask], moved[second.mask])
    for (batch, now), stats in zip(batches, stats_seen, strict=True):
        at = batch.mask
        old, behavior = np.float64(batch.logp_old[at]), np.float64(batch.logp_behavior[at])
        assert stats["ratio/mean"] == pytest.approx(np.exp(np.float64(now[at]) - old).mean(), 1e-5)
        assert stats["sampling/importance_sampling_ratio/mean"] == pytest.approx(
            np.minimum(np.exp(old - behavior), 2.0).mean(), 1e-5
        )


@pytest.mark.slow
def test_the_first_process_says_at_which_place_a_step_is_packed(tmp_path, monkeypatch):
    """That gives the devices work, which all processes must give them in one order."""
    events, sample, pack = [], ahead.sample_step, rl.make_minibatches

    def sampled(*given, **named):
        found = sample(*given, **named)
        events.append("sampled")
        return found

    def packed(*given):
        events.append("packed")
        return pack(*given)

    def from_first(make, what):
        return events.count("packed") == 0 if what == "verdicts are in" else make()

    monkeypatch.setattr(ahead, "sample_step", sampled)
    monkeypatch.setattr(rl, "make_minibatches", packed)
    monkeypatch.setattr("r1jax.cluster.from_first", from_first)
    train(tmp_path, tree(steps=3))
    # Step 0 as soon as step 1 samples, whether its verdicts are in or not; step 1 not before step 2
    # is sampled, though they are.
    assert events == ["sampled", "packed", "sampled", "sampled", "packed", "packed"]


def test_whose_log_probs_a_ratio_is_against():
    def old(objective=None, **rl):
        return from_config_dict({"rl": rl, "objective": objective or {}}).old_policy

    assert (old(), old(epochs=2)) == ("now", "sampler")
    carry = {"mode": "refill", "carry": True}
    assert (old(dynamic=carry), old(TIS, dynamic=carry)) == ("sampler", "now")
    assert (old(TIS, asynchronous=True), old(TIS, asynchronous=True, epochs=2)) == ("now", "before")


def test_a_step_off_wants_a_correction():
    with pytest.raises(UserError, match=r"config\.rl\.asynchronous=True: .*correction='tis'"):
        from_config_dict({"rl": {"asynchronous": True}})


def off_policy(setup):
    """A sampler that is not the policy."""
    policy = type(setup).policy

    def other(self, base, trained):
        params = policy(self, base, trained)
        return jax.tree.map(lambda leaf: leaf * 1.5, params)

    return mock.patch.object(type(setup), "policy", other)


STRICT = {**tree(asynchronous=False), "objective": {}, "checkpoint": {"every": 1}}


def test_a_gap_between_sampler_and_trainer_ends_a_strict_run(tmp_path):
    message = r"rl step 0: sampler and trainer differ by .* above config\.rl\.gap_limit=0\.05"
    with session_in(tmp_path, STRICT) as session:
        base = fresh_params(session.setup)
        with off_policy(session.setup), pytest.raises(UserError, match=message):
            rl.train_rl(session, base)
    assert log(tmp_path)[-1]["sampling/sampling_logp_difference/mean"] > 0.05


@pytest.mark.slow
def test_a_gap_loses_nothing_that_was_learned_before_it(tmp_path):
    with session_in(tmp_path, STRICT) as session:
        rl.train_rl(session, fresh_params(session.setup), until=1)
        with off_policy(session.setup), pytest.raises(UserError, match="rl step 1: sampler"):
            rl.train_rl(session, fresh_params(session.setup))
    assert log(tmp_path)[-1]["sampling/sampling_logp_difference/mean"] > 0.05
    # What was learned before it is there, what was learned from it is not.
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints/rl").iterdir()) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"rl": {"gap_limit": 0.0}}, {"objective": TIS}])
def test_a_gap_is_nothing_where_it_is_allowed_or_corrected(tmp_path, setting):
    config = {**tree(asynchronous=False, steps=1), "objective": {}}
    config |= {k: {**config[k], **v} for k, v in setting.items()}
    with session_in(tmp_path, config) as session, off_policy(session.setup):
        rl.train_rl(session, fresh_params(session.setup))
    assert log(tmp_path)[-1]["sampling/sampling_logp_difference/mean"] > 0.05


def test_an_update_cannot_write_over_what_is_sampling():
    """Updates take over the memory of the parameters, so the sampler must have its own."""
    setup = make_setup(from_config_dict(tree()))
    params = fresh_params(setup)
    prepared = rollout.prepare_params(setup.module.config, params)
    before = jax.tree.map(np.array, prepared)
    jax.jit(lambda p: jax.tree.map(lambda leaf: leaf + 1, p), donate_argnums=0)(params)
    assert_same(prepared, before)
