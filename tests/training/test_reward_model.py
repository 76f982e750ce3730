"""Iterative GRPO: a reward model in the loop, its pairs and their replay, learning and resuming."""

import functools
import itertools
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_tiny
from loops import assert_same, kept, log, session_in, train

from r1jax.config import OptimConfig, from_config_dict
from r1jax.errors import UserError
from r1jax.models import heads
from r1jax.rewards.samples import Judgement
from r1jax.training import reward_model as lib
from r1jax.training import rl
from r1jax.training.optimizer import make_optimizer
from r1jax.training.setup import fresh_params
from r1jax.training.step import init_state
from r1jax.types import Graded, PromptBatch, Rollouts

CONFIG = {
    "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32},
    "data": {"size": 3, "max_prompt_tokens": 4},
    "sampling": {"max_tokens": 6},
    "objective": {"kl": "k3", "kl_coef": 0.01},
    "optim": {"lr": 0.01},
    "mesh": {"data": 1},
    "checkpoint": {"every": 3},
    "rl": {"steps": 6, "prompts_per_step": 4, "samples_per_prompt": 4, "reference_every": 2},
    "reward_model": {"every": 2, "updates": 2, "pairs": 5, "replay": 0.4, "optim": {"lr": 0.02}},
    "reward_weights": {"accuracy": 1.0},
}


def toss_coins(monkeypatch):
    """A fresh model answers nothing right, so the verdict is that of a coin, keyed by sample."""

    def at_once(sample, _name):
        right = bool(np.random.default_rng([*sample.key, 1]).random() < 0.5)
        return Judgement(float(right), correct=right)

    monkeypatch.setattr("r1jax.rewards.verifiers.at_once", at_once)


@pytest.fixture(autouse=True)
def _coin(monkeypatch):
    toss_coins(monkeypatch)


def graded_of(correct_PG, valid_PG):
    prompts, group = np.shape(correct_PG)
    rows = prompts * group
    tokens = np.arange(rows * 3, dtype=np.int32).reshape(rows, 3)
    starts = tuple(np.array([100 + at], np.int32) for at in range(prompts))
    batch = PromptBatch(np.arange(prompts), starts, ({},) * prompts)
    lengths = np.full(rows, 2, np.int32)
    logp, finished = np.zeros((rows, 3), np.float32), np.ones(rows, bool)
    return mock.Mock(
        spec=Graded,
        rollouts=Rollouts(batch, tokens, logp, lengths, finished),
        rewards=np.zeros(rows, np.float32),
        valid=np.array(valid_PG, bool).reshape(-1),
        correct=np.array(correct_PG, bool).reshape(-1),
    )


def test_pairs_are_the_first_right_and_the_first_wrong_answer_that_were_judged():
    correct = [[0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0]]
    valid = [[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1]]
    pairs = lib.pairs_of(graded_of(correct, valid))
    found = [[text.tolist() for text in pair] for pair in pairs]
    assert found == [[[100, 3, 4], [100, 0, 1]], [[103, 30, 31], [103, 33, 34]]]


def test_a_share_of_the_pairs_is_of_earlier_iterations():
    every = [(np.array([at]), np.array([0])) for at in range(57)]
    old, new = every[:7], every[7:]

    def chosen(old, replay):
        rngs = map(np.random.default_rng, range(30))
        return np.array([[int(a[0]) for a, _ in lib.choose(old, new, 20, replay, r)] for r in rngs])

    picks = chosen(old, 0.1)
    assert (picks < 7).sum(axis=1).tolist() == [2] * 30
    assert set(picks.flat) == set(range(57))
    assert (chosen([], 0.5) >= 7).all()


def test_what_is_saved_is_what_is_read():
    config, rng = from_config_dict(CONFIG), np.random.default_rng(0)
    texts = [rng.integers(1, 9, rng.integers(1, 11)).astype(np.int32) for _ in range(10)]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    arrays = lib.pair_arrays(config, pairs[:3], pairs[3:])
    empty = lib.pair_arrays(config, [], [])
    assert {k: v.shape for k, v in arrays.items()} == {k: v.shape for k, v in empty.items()}
    assert_same(lib.read_pairs(arrays), (pairs[:3], pairs[3:]))


@pytest.mark.slow
def test_scores_are_of_last_tokens_and_pairs_are_learned():
    """The loss is Bradley and Terry's mean over pairs, whatever the padding."""
    module, params = heads.attach(*make_tiny(layers=1), seed=3)
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 8, 12).astype(np.int32)
    tokens = rng.integers(0, 24, (12, 8)).astype(np.int32)
    alone = [
        float(heads.scores(module, params, jnp.asarray(tokens[row : row + 1, :length]))[0, -1])
        for row, length in enumerate(lengths)
    ]
    found = lib.score(module, params, jnp.asarray(tokens), jnp.asarray(lengths))
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    optimizer = make_optimizer(OptimConfig(lr=0.05), 25)
    update = lib.make_pair_update(module, optimizer)
    state, seen = init_state(params, optimizer), []
    for _ in range(25):
        state, stats = update(state, tokens, lengths)
        seen.append({name: float(value) for name, value in stats.items()})
    margins = np.array(alone, np.float64).reshape(-1, 2) @ [1, -1]
    assert seen[0]["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), 1e-5)
    assert seen[0]["accuracy"] == pytest.approx((margins > 0).mean())
    assert seen[0]["margin"] == pytest.approx(margins.mean(), 1e-4)
    assert (seen[-1]["accuracy"], int(state.step)) == (1, 25)
    assert seen[-1]["loss"] < 0.1 < seen[0]["loss"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(workdir, final state, (reward model's parameters, graded) of each step)"""
    workdir, told = tmp_path_factory.mktemp("whole"), []
    with pytest.MonkeyPatch.context() as patch:
        toss_coins(patch)
        learn = rl.learn

        def spy(setup, run, base, update_at, drawn, minibatches):
            told.append((jax.device_get(run.reward_model.state.params), drawn.graded))
            return learn(setup, run, base, update_at, drawn, minibatches)

        patch.setattr(rl, "learn", spy)
        return workdir, train(workdir, CONFIG), told


@pytest.mark.slow
def test_each_iteration_is_paid_by_the_model_of_its_start(whole, tmp_path):
    workdir, _, told = whole
    lines = log(workdir)
    steps = [line for line in lines if line["phase"] == "rl"]
    learned = [line for line in lines if line["phase"] == "reward_model"]
    assert [line["step"] for line in learned] == [2, 4, 6]
    # Pairs become old when they have been learned from.
    news = [line["new_pairs"] for line in learned]
    assert min(news) > 2
    assert [line["old_pairs"] for line in learned] == [0, news[0], news[0] + news[1]]
    assert [line["rewards/reward_model/mean"] == 0 for line in steps] == [True] * 2 + [False] * 4
    with session_in(tmp_path, CONFIG) as session:
        module, _ = lib.without_head(session.setup.module, {})
        scores = jax.jit(functools.partial(heads.scores, module))
        for params, graded in told:
            found = graded.parts["reward_model"]
            for row in (0, 7, 15):
                text = lib.text_of(graded, row)
                padded = np.append(text, np.zeros(10 - len(text), np.int32))
                one = scores(params, padded[None])[0, len(text) - 1]
                assert found[row] == pytest.approx(float(one), rel=1e-4, abs=1e-6)
            expected = graded.parts["accuracy"] + found
            np.testing.assert_array_equal(graded.rewards, expected.astype(np.float32))
    # Within an iteration the model stays as it is.
    heads_of = [params["score"] for params, _ in told]
    same = [np.array_equal(one, other) for one, other in itertools.pairwise(heads_of)]
    assert same == [True, False, True, False, True]


@pytest.mark.slow
def test_resumed_it_is_the_same_run(whole, tmp_path):
    """From the middle of an iteration: with its model, pairs to learn from and pairs of before."""
    workdir, state, _ = whole
    parts = tmp_path / "parts"
    shutil.copytree(workdir, parts)
    shutil.rmtree(parts / "checkpoints/rl/6")
    again = train(parts, CONFIG)
    assert_same((again.params, again.opt_state), (state.params, state.opt_state))
    assert kept(parts) == kept(workdir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward_model": {"weight": 2.0}}, r"reward_model\.weight: there is none; set reward_m"),
        ({"reward_model": {"every": 2, "replay": 1.0}}, r"replay=1\.0: must be a share"),
        ({"lora": {"rank": 2}, "objective": {}, "rl": {}}, "trained whole, which is what adapters"),
        ({"rl": {"advantage": "process"}, "grading": {"steps": "x:y"}}, "scores whole responses"),
    ],
)
def test_what_does_not_go_together_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        from_config_dict({**CONFIG, **change})


@pytest.mark.slow
def test_the_base_stays_as_it_is(tmp_path):
    """The model is a copy: the policy's updates write over their own."""
    with session_in(tmp_path, CONFIG) as session:
        base = fresh_params(session.setup)
        before = jax.device_get(base)
        model = lib.fresh_reward_model(session.setup, base)
        text = np.array([1, 2, 3], np.int32)
        model.new, texts = [(text, text[:2])], [text, text[:2]]
        assert model.learn(2, None)["new_pairs"] == 1
        assert_same(jax.device_get(base), before)
        scores = model._score(model.state.params, *model._padded(texts, 2))
        assert scores[0] > scores[1]
