"""Drafts change how many steps a response takes, never the response."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import counted_compiles, log_softmax, quick_compiles
from test_generate import SAMPLING, WAYS, cut_by_hand, letters, start, tiny

from r1jax.errors import UserError
from r1jax.models.config import MlaConfig
from r1jax.ops.logprobs import compute_logits
from r1jax.ops.sampling import draw, row_keys, uniforms
from r1jax.rollout import (
    RolloutConfig,
    SamplingParams,
    dispatch,
    prepare_params,
    speculative,
)
from r1jax.types import PromptBatch

DEEPSEEK = {
    "kv_heads": 4,
    "head_dim": 10,
    "mla": MlaConfig(kv_rank=12, query_rank=6, rope_dim=4, value_dim=5),
    "layers": 1,
    "mtp": True,
    "tied_head": False,
}
COOL = dataclasses.replace(SAMPLING, temperature=0.5, max_tokens=24, stop_ids=(0, 6, 9, 20))
REPETITIVE = [[1, 2, 3, 4] * 5, [9] * 8, [5, 6, 7] * 4, [4], [2, 8] * 3]
NGRAM = {"speculate": "ngram", "ngram": 2, "draft_tokens": 3}
MTP = {"speculate": "mtp", "draft_tokens": 2}


@pytest.fixture(autouse=True)
def _quick_compiles():
    with quick_compiles():
        yield


def run(config, *, prompts=REPETITIVE, sampling=COOL, model=None, **options):
    rollout = start(prompts, sampling=sampling, config=config, **options, **(model or {}))
    rollout.collect()
    return rollout


@functools.cache
def plain(deepseek=False, **changes):
    sampling = dataclasses.replace(COOL, **changes)
    return run(RolloutConfig(), sampling=sampling, model=DEEPSEEK if deepseek else None)


def assert_same(got, wanted, atol=1e-5):
    for name in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(got.rollouts, name), getattr(wanted.rollouts, name))
    np.testing.assert_allclose(got.rollouts.logp, wanted.rollouts.logp, atol=atol)


def assert_counts_add_up(rollout):
    """Every token but the first of a response took a step or was a draft that came true."""
    assert rollout.busy_steps + rollout.accepted == (rollout.rollouts.lengths - 1).sum()
    assert rollout.accepted <= rollout.drafted


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("all defaults", marks=pytest.mark.slow),
        pytest.param("a step at a time", marks=pytest.mark.slow),
        pytest.param("a shared prompt, few slots", marks=pytest.mark.slow),
        pytest.param("one prompt at a time", marks=pytest.mark.slow),
    ],
)
def test_looked_up_drafts_change_no_response(way):
    wanted, got = plain(), run(dataclasses.replace(WAYS[way], **NGRAM))
    assert len(set(wanted.rollouts.lengths.tolist())) > 3
    assert got.accepted > 20
    assert_same(got, wanted)
    assert_counts_add_up(got)


@pytest.mark.slow
def test_accepted_drafts_save_steps():
    got = run(RolloutConfig(**NGRAM), sampling=dataclasses.replace(COOL, temperature=0.0))
    wanted = plain(temperature=0.0)
    assert_same(got, wanted)
    assert_counts_add_up(got)
    assert got.steps <= wanted.steps / 2
    assert got.busy_steps < wanted.busy_steps / 2
    assert got.tokens_per_step == (got.busy_steps + got.accepted) / got.busy_steps > 2


@pytest.mark.parametrize(
    "temperature", [0.6, *(pytest.param(t, marks=pytest.mark.slow) for t in (0.0, 1.0))]
)
def test_the_models_own_drafts_change_no_response(temperature):
    got = run(
        RolloutConfig(**MTP),
        sampling=dataclasses.replace(COOL, temperature=temperature),
        model=DEEPSEEK,
    )
    assert_same(got, plain(temperature=temperature, deepseek=True))
    assert_counts_add_up(got)
    assert got.drafted == MTP["draft_tokens"] * got.busy_steps


class Counts:
    """What a rollout should have drafted and accepted, by hand, and why runs of drafts ended."""

    def __init__(self):
        self.drafted = self.accepted = self.steps = self.stopped_inside = self.cut_inside = 0

    def follow(self, rollouts, row, drafts_at, pending=0):
        """`drafts_at(pending)`: drafts of the tokens behind the one at this place."""
        response = rollouts.response(row).tolist()
        while pending < len(response) - 1:
            drafts = drafts_at(pending)
            rest = response[pending + 1 :]
            right = [d == r for d, r in zip(drafts, rest, strict=False)]
            run = [*right, False].index(False)
            # The token sampled behind the last right draft comes too, unless that was the end.
            gained = min(run + 1, len(rest))
            if run == len(rest) and len(drafts) >= run:
                self.stopped_inside += bool(rollouts.finished[row])
                self.cut_inside += not rollouts.finished[row]
            self.steps += 1
            self.drafted += len(drafts)
            self.accepted += gained - 1
            pending += gained

    def assert_are_of(self, rollout):
        assert rollout.busy_steps == self.steps
        assert (rollout.drafted, rollout.accepted) == (self.drafted, self.accepted)


def looked_up_by_hand(text, ngram, count):
    for behind in range(len(text) - 1, ngram - 1, -1):
        if text[behind - ngram : behind] == text[len(text) - ngram :]:
            text = list(text)
            for place in range(count):
                text.append(text[behind + place])
            return text[-count:]
    return []


def test_drafts_are_what_followed_last_time():
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 3, (200, 14))
    known = rng.integers(1, 15, 200)
    for ngram in (1, 2, 3):
        found = speculative.look_up(
            jnp.asarray(texts, jnp.int32), jnp.asarray(known), ngram=ngram, count=5
        )
        for text, length, drafts in zip(texts.tolist(), known, found.tolist(), strict=True):
            wanted = looked_up_by_hand(text[:length], ngram, 5)
            assert drafts == (wanted or [speculative.NOTHING] * 5)


def count_lookups(rollouts):
    counts = Counts()
    for row in range(len(rollouts.lengths)):
        prompt = rollouts.prompts.tokens[row // rollouts.samples_per_prompt].tolist()
        text = prompt + rollouts.response(row).tolist()

        def drafts(pending, text=text, prompt=prompt):
            known = text[: len(prompt) + pending + 1]
            return looked_up_by_hand(known, NGRAM["ngram"], NGRAM["draft_tokens"])

        counts.follow(rollouts, row, drafts)
    return counts


def test_every_looked_up_draft_that_is_right_is_accepted():
    """Also where a stop id or the limit lies inside a run of right drafts."""
    sampling = SamplingParams(max_tokens=8, stop_ids=(0,))
    prompts, model = [[1, 2, 0] * 4, [2, 2, 1, 0] * 3], {"vocab_size": 3}
    got, wanted = (
        run(config, prompts=prompts, sampling=sampling, model=model, samples=20)
        for config in (RolloutConfig(**NGRAM, slots=16), RolloutConfig(slots=16))
    )
    assert_same(got, wanted)
    counts = count_lookups(got.rollouts)
    counts.assert_are_of(got)
    assert counts.stopped_inside > 0
    assert counts.cut_inside > 0


def mtp_logits(model, params, tokens, extra, places):
    """What the head says of the module's state at `places` of padded rows [R, T], whose states are
    the model's or, where `extra` [R, T, D] is not 0, these."""
    hidden = model.apply({"params": params}, tokens, method="hidden")
    hidden = jnp.where(jnp.any(extra != 0, axis=-1, keepdims=True), extra, hidden)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    inputs = (hidden, jnp.roll(tokens, -1, axis=1), positions, jnp.ones_like(tokens))
    further, _ = model.apply({"params": params}, *inputs, method="mtp_hidden")
    states = further[jnp.arange(len(tokens)), places]
    return states, compute_logits(states, params["head"])


def drafts_of_training(rollouts):
    """{(row, pending): two drafts} for every place of every response, by the training path."""
    model, params = tiny(**DEEPSEEK)
    say = jax.jit(functools.partial(mtp_logits, model))
    cases = [  # (row, what is pending, tokens up to it)
        (row, at, [*REPETITIVE[row // 3], *rollouts.response(row)[: at + 1].tolist()])
        for row in range(len(rollouts.lengths))
        for at in range(rollouts.lengths[row] - 1)
    ]
    rows, pending = (np.array(column, np.uint32) for column in list(zip(*cases, strict=True))[:2])
    last = np.array([len(text) - 1 for _, _, text in cases])
    tokens = np.zeros((len(cases), 48), np.int32)
    for case, (_, _, text) in enumerate(cases):
        tokens[case, : len(text)] = text
    extra = np.zeros((*tokens.shape, model.config.width), np.float32)
    keys = row_keys(0, 0, jnp.asarray(rows // 3), jnp.asarray(rows % 3))
    drafts = []
    for ahead in range(2):
        place = jnp.asarray(pending + 1 + ahead, jnp.int32)
        states, logits = say(params, tokens, extra, last - 1 + ahead)
        drafts.append(np.asarray(draw(logits / COOL.temperature, uniforms(keys, place))[0]))
        extra[np.arange(len(cases)), last + ahead] = states
        tokens[np.arange(len(cases)), last + ahead + 1] = drafts[-1]
    return {(r, at): (a, b) for (r, at, _), a, b in zip(cases, *drafts, strict=True)}


def test_the_module_drafts_what_training_made_it_say():
    """As many drafts are accepted as are right."""
    got = run(RolloutConfig(**MTP), model=DEEPSEEK)
    drafts = drafts_of_training(got.rollouts)
    counts = Counts()
    for row in range(len(got.rollouts.lengths)):
        counts.follow(got.rollouts, row, lambda at, row=row: drafts[row, at])
    counts.assert_are_of(got)
    assert counts.accepted > 10


@pytest.mark.slow
@pytest.mark.parametrize("looks", [1, 3])
def test_the_module_drafts_on_behind_what_was_carried(looks):
    """The responses are the uninterrupted ones, and the module has read all that they had: as many
    of its drafts are accepted as are right."""
    config = RolloutConfig(**MTP, slots=6, chunk=2, share_prompts="never")
    first = start(REPETITIVE, sampling=COOL, config=config, **DEEPSEEK)
    for _ in itertools.islice(first.finished(), looks):
        pass
    first.stop()
    carried = first.carry(range(len(REPETITIVE)))
    had = np.where(carried.complete, -1, carried.rollouts.lengths)
    assert (had > 0).sum() > 2
    module, params = tiny(**DEEPSEEK)
    second = dispatch(
        module,
        prepare_params(module.config, params),
        PromptBatch(np.zeros(0, np.int64), (), ()),
        sampling=COOL,
        samples_per_prompt=3,
        seed=0,
        # A group that was not begun begins now: let that be the same step, so the same randomness.
        step=0,
        config=config,
        carried=carried,
    )
    second.collect()
    assert_same(second, plain(deepseek=True))
    drafts = drafts_of_training(second.rollouts)
    counts = Counts()
    for row in np.flatnonzero(had >= 0).tolist():
        # Its next token comes with reading what it had, the drafts behind that.
        counts.follow(second.rollouts, row, lambda at, row=row: drafts[row, at], pending=had[row])
    counts.assert_are_of(second)
    assert counts.accepted > 5


@pytest.mark.parametrize(
    ("config", "model"),
    [
        pytest.param({**NGRAM, "ngram": 1}, {}, id="ngram"),
        pytest.param(MTP, DEEPSEEK, id="mtp", marks=pytest.mark.slow),
    ],
)
def test_sequences_come_as_often_as_the_model_says(config, model):
    """Chi-square over all 81 responses of 4 tokens out of 3, p = 0.001."""
    model = {**model, "vocab_size": 3}
    sampling = SamplingParams(max_tokens=4)
    config = RolloutConfig(**config, slots=1500)
    got = run(config, prompts=[[0, 1] * 4], sampling=sampling, model=model, samples=3000)
    assert got.accepted > 500
    module, params = tiny(**model)
    every = np.array(list(itertools.product(range(3), repeat=4)))
    texts = np.concatenate([np.tile([0, 1] * 4, (81, 1)), every], axis=1)
    logp = log_softmax(np.asarray(jax.jit(module.apply)({"params": params}, texts)))
    expected = 3000 * np.exp(
        sum(logp[np.arange(81), 7 + place, every[:, place]] for place in range(4))
    )
    seen = np.bincount(got.rollouts.tokens @ [27, 9, 3, 1], minlength=81)
    common = expected >= 5
    seen, expected = (np.append(x[common], x[~common].sum()) for x in (seen, expected))
    statistic = np.sum((seen - expected) ** 2 / expected)
    assert statistic < scipy.stats.chi2.isf(0.001, len(seen) - 1)


def test_stop_strings_and_least_lengths_hold_with_drafts():
    plain_one = plain(min_tokens=3)
    assert plain_one.rollouts.lengths.min() >= 3 > plain().rollouts.lengths.min()
    strings = tuple(letters(plain_one.rollouts.response(row))[-4:-1] for row in (1, 5, 9, 14))
    sampling = dataclasses.replace(COOL, stop_strings=strings, min_tokens=3)
    got = run(RolloutConfig(**NGRAM, chunk=2), sampling=sampling, decode_text=letters)
    wanted = list(cut_by_hand(plain_one.rollouts, strings))
    assert any(len(w) < n for (w, _), n in zip(wanted, plain_one.rollouts.lengths, strict=True))
    for row, (response, finished) in enumerate(wanted):
        assert got.rollouts.response(row).tolist() == response
        assert got.rollouts.finished[row] == finished


def test_a_second_rollout_with_drafts_compiles_nothing():
    run(RolloutConfig(**NGRAM))
    with counted_compiles() as compiles:
        run(RolloutConfig(**NGRAM), prompts=[[7, 1] * 9, [5]] * 2 + [[1]], seed=3)
    assert compiles.count == 0


def test_a_model_without_the_module_cannot_draft():
    with pytest.raises(UserError, match="no MTP module; use 'ngram'"):
        run(RolloutConfig(**MTP))
