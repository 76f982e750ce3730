"""What is drawn, how often, and with which log-probability."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import counted_compiles, log_softmax, softmax
from scipy import stats

from r1jax.ops import sampling as ops
from r1jax.ops.sampling import SamplingArrays, SamplingParams

draw = jax.jit(lambda logits, uniform: ops.draw(logits, uniform)[0])
filter_logits = jax.jit(ops.filter_logits)
uniforms = jax.jit(ops.uniforms)
row_keys = jax.jit(ops.row_keys)

EDGE_UNIFORMS = np.array([0.0, 1e-30, 1e-7, 0.5, 1 - 2**-23, 1 - 2**-24], np.float32)
EDGE_PAIRS = list(itertools.product(EDGE_UNIFORMS, EDGE_UNIFORMS))


def make_arrays(vocabulary: int = 50, **changes) -> SamplingArrays:
    return SamplingArrays.of(SamplingParams(**changes), vocabulary)


@jax.jit
def sample_after(logits, uniform, taken, arrays):
    return ops.sample(logits, uniform, taken, arrays)


def sample(logits, uniform, taken=0, **changes):
    """Tokens and log-probs where `taken` tokens of the response are there. One number for each row
    is enough for a vocabulary of one block."""
    if uniform.ndim == 1:
        uniform = np.stack([uniform, np.full_like(uniform, 0.5)], axis=1)
    taken = np.full(len(logits), taken, np.int32)
    return sample_after(logits, uniform, taken, make_arrays(logits.shape[1], **changes))


def filter_by_sorting(logits, top_k, top_p):
    """Which tokens of one row stay: top-k with its ties, then top-p of the renormalised rest."""
    kept = np.isfinite(logits)
    if top_k and kept.sum() > top_k:
        kept &= logits >= np.sort(logits)[-top_k]
    if top_p < 1:
        probs = softmax(np.where(kept, logits.astype(np.float64), -np.inf))
        order = np.argsort(-probs)
        reached = np.searchsorted(np.cumsum(probs[order]), top_p * (1 - 1e-6))
        kept &= logits >= logits[order[min(reached, len(order) - 1)]]
    return kept


def assert_drawn_as(probs, tokens):
    """Chi-square over cells of enough mass; what has no mass was never drawn."""
    counts = np.bincount(tokens, minlength=len(probs))
    assert counts[probs == 0].sum() == 0
    wanted = probs * counts.sum()
    rare = wanted < 5
    cells = (
        np.append(counts[~rare], counts[rare].sum()),
        np.append(wanted[~rare], wanted[rare].sum()),
    )
    enough = cells[1] > 0
    assert stats.chisquare(cells[0][enough], cells[1][enough]).pvalue > 1e-3


@pytest.mark.parametrize("vocabulary", [3, 5, 64, 1000])
def test_draws_follow_the_distribution(vocabulary):
    """On a stratified grid of pairs of uniforms, and on the random ones a rollout uses."""
    rng = np.random.default_rng(vocabulary)
    logits = 2 * rng.normal(size=vocabulary).astype(np.float32)
    logits[rng.random(vocabulary) < 0.4] = -np.inf
    logits[0] = 0.5
    side = 141
    count, probs = side**2, softmax(logits)
    rows = np.broadcast_to(logits, (count, vocabulary))
    line = ((np.arange(side) + 0.5) / side).astype(np.float32)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(line, line)], axis=1)
    counts = np.bincount(draw(rows, grid), minlength=vocabulary)
    # A token is a rectangle of the grid; each of its sides is off by one line at most.
    of_block = np.add.reduceat(probs, np.arange(0, vocabulary, 64)).repeat(64)[:vocabulary]
    inside = probs / np.where(of_block > 0, of_block, 1)
    bound = side * (of_block + inside) + 1.01
    assert (np.abs(counts - probs * count) <= bound).all()
    keys = row_keys(0, 0, np.arange(count, dtype=np.uint32), np.zeros(count, np.uint32))
    assert_drawn_as(probs, draw(rows, uniforms(keys, np.zeros(count, int))))


def test_programs_that_round_otherwise_draw_the_same():
    """A number between two roundings of an edge is two tokens. With one number for all, rounding
    moved the edges of all tokens: 87 of these 10,240 draws fell between."""
    rng = np.random.default_rng(0)
    rows, vocabulary, times = 256, 32_000, 40
    logits = rng.normal(size=(rows, vocabulary)).astype(np.float32)
    rounded = logits + 1e-4 * rng.normal(size=logits.shape).astype(np.float32)
    differ = 0
    for _ in range(times):
        uniform = rng.random((rows, 2), np.float32)
        differ += int((draw(logits, uniform) != draw(rounded, uniform)).sum())
    assert differ < 30


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 40}, {"top_p": 0.7}, {"top_k": 40, "top_p": 0.7}]
)
def test_samples_follow_the_processed_distribution(options):
    rng = np.random.default_rng(1)
    logits = 1.5 * rng.normal(size=1000).astype(np.float32)
    temperature, count = 0.8, 20_000
    processed = logits / np.float32(temperature)
    kept = filter_by_sorting(processed, options.get("top_k", 0), options.get("top_p", 1.0))
    probs = softmax(np.where(kept, processed, -np.inf))
    uniform = rng.random((count, 2), np.float32)
    rows = np.broadcast_to(logits, (count, 1000))
    tokens, logp = sample(rows, uniform, temperature=temperature, **options)
    assert_drawn_as(probs, np.asarray(tokens))
    np.testing.assert_allclose(logp, np.log(probs[tokens]), atol=1e-5)


@pytest.mark.parametrize("vocabulary", [2, 63, 64, 65, 129, 1000])
def test_impossible_tokens_are_never_drawn(vocabulary):
    """Also with uniforms at the edges, where rounding of the running sums could land on them."""
    rng = np.random.default_rng(0)
    rows = 256
    logits = 3 * rng.normal(size=(rows, vocabulary)).astype(np.float32)
    shares = rng.random((rows, 1)) ** 2
    logits[rng.random(logits.shape) > shares] = -np.inf
    logits[np.arange(rows), rng.integers(0, vocabulary, rows)] = 0.0
    for pair in EDGE_PAIRS:
        tokens = np.asarray(draw(logits, np.tile(pair, (rows, 1))))
        assert tokens.max() < vocabulary
        assert np.isfinite(logits[np.arange(rows), tokens]).all()


def test_rounding_of_running_sums_cannot_reach_an_impossible_token():
    """A parallel scan over a large vocabulary can rise a little where there is no mass left."""
    rng = np.random.default_rng(0)
    rows, vocabulary = 64, 2**16 - 5
    logits = rng.normal(size=(rows, vocabulary)).astype(np.float32)
    ends = 1024 * rng.integers(1, vocabulary // 1024, (rows, 1))
    logits[np.arange(vocabulary)[None] >= ends] = -np.inf
    for pair in itertools.product(EDGE_UNIFORMS[-2:], EDGE_UNIFORMS):
        tokens = np.asarray(draw(logits, np.tile(pair, (rows, 1))))
        assert (tokens < ends[:, 0]).all()


def test_rounding_of_running_sums_cannot_reach_a_place_without_mass():
    """With targets right on the running sums, which here rise a little over empty places."""
    rng = np.random.default_rng(0)
    mass = (rng.random(1024) * (rng.random(1024) < 0.3)).astype(np.float32)
    running = np.asarray(jax.jit(jnp.cumsum)(mass))
    assert ((np.diff(running) > 0) & (mass[1:] == 0)).any()
    targets = np.concatenate([running, np.nextafter(running, np.float32(0))])
    places = jax.jit(ops._invert)(np.broadcast_to(mass, (len(targets), 1024)), targets)
    assert (mass[places] > 0).all()


@pytest.mark.parametrize("kind", ["random", "ties", "holes", "flat", "one", "outlier", "close"])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("top_k", [0, 1, 5, 1000])
def test_filters_equal_sorting(kind, top_k, top_p):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(32, 100)).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits)
    elif kind == "holes":
        logits[rng.random(logits.shape) < 0.7] = -np.inf
        logits[:, 0] = 1.0
    elif kind == "flat":
        logits[:] = 0.7
    elif kind == "one":
        logits[:, 1:] = -np.inf
    elif kind == "outlier":
        logits[:, :3] = -1e30
    elif kind == "close":  # neighbouring floats, and one far away
        logits = np.float32(1) + rng.permuted(np.tile(np.arange(100), (32, 1)), axis=1) * 2**-23
        logits = np.where(np.arange(100) == 7, -1e9, logits).astype(np.float32)
    out = np.asarray(filter_logits(logits, make_arrays(top_k=top_k, top_p=top_p)))
    wanted = np.array([filter_by_sorting(row, top_k, top_p) for row in logits])
    np.testing.assert_array_equal(np.isfinite(out), wanted)
    np.testing.assert_array_equal(out[wanted], logits[wanted])


def test_a_mass_reached_exactly_is_enough():
    """Probabilities 1/2, 1/4, ...: top_p = 1 - 2^-n keeps n tokens, however sums are rounded."""
    shifts = np.random.default_rng(0).normal(size=(64, 1))
    logits = (np.log(0.5) * np.array([1, 2, 3, 4, 5, 6, 7, 7]) + shifts).astype(np.float32)
    for count in range(1, 6):
        kept = np.isfinite(filter_logits(logits, make_arrays(top_p=1 - 0.5**count)))
        np.testing.assert_array_equal(kept, np.tile(np.arange(8) < count, (64, 1)))


def test_greedy_takes_the_best_token_and_reports_temperature_one():
    logits = np.random.default_rng(0).normal(size=(16, 50)).astype(np.float32)
    uniform = np.full(16, 0.99, np.float32)
    tokens, logp = sample(logits, uniform, temperature=0.0, top_k=3, top_p=0.5, min_p=0.9)
    np.testing.assert_array_equal(tokens, logits.argmax(axis=-1))
    np.testing.assert_allclose(logp, log_softmax(logits).max(axis=-1), atol=1e-6)


def test_no_change_of_values_compiles_anything():
    logits, uniform = np.zeros((2, 9), np.float32), np.zeros(2, np.float32)
    sample(logits, uniform)
    values = {
        "temperature": [0.0, 0.3, 2.0],
        "top_k": [1, 7],
        "top_p": [0.2],
        "min_p": [0.1],
        "min_tokens": [4],
        "logit_bias": [{3: 1.0}],
        "forbidden_ids": [(1, 4)],
        "stop_ids": [(1,), (2, 3)],
        "max_tokens": [3],
    }
    with counted_compiles() as compiles:
        for name, value in ((n, v) for n, vs in values.items() for v in vs):
            sample(logits, uniform, **{name: value})
    assert compiles.count == 0


def test_a_row_has_two_numbers_per_place_whatever_the_batch():
    """Every (seed, step, prompt, sample, place) has its own numbers, in any company."""

    def numbers(prompts, samples, seed=0, step=0):
        keys = row_keys(seed, step, np.array(prompts, np.uint32), np.array(samples, np.uint32))
        return [uniforms(keys, np.full(len(prompts), place)).tolist() for place in range(3)]

    together = np.array(numbers([5, 5, 9, 2**32 - 1], [0, 1, 0, 3]))
    for row, (prompt, one) in enumerate([(5, 0), (5, 1), (9, 0), (2**32 - 1, 3)]):
        np.testing.assert_array_equal(np.array(numbers([prompt], [one]))[:, 0], together[:, row])
    others = [numbers([5, 5, 9], [0, 1, 0], seed=s, step=t) for s, t in ((1, 0), (0, 1), (1, 1))]
    values = [*together.ravel(), *np.array(others).ravel()]
    assert len(set(values)) == len(values)
    assert 0 <= min(values) <= max(values) < 1


def test_numbers_are_uniform_and_unrelated_across_rows_and_places():
    rows = 200
    prompts, samples = map(np.array, zip(*itertools.product(range(rows), range(2)), strict=True))
    keys = row_keys(3, 1, prompts.astype(np.uint32), samples.astype(np.uint32))
    u = np.array([uniforms(keys, np.full(len(prompts), place)) for place in range(20)])
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    rows = (u[:-1], u[1:]), (u[:, ::2], u[:, 1::2]), (u[:, :-2], u[:, 2:])
    for left, right in (*rows, (u[..., 0], u[..., 1])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"min_p": 1.5},
        {"min_tokens": 257},
        {"stop_strings": ("a", "")},
        {"logit_bias": {3: math.nan}},
    ],
)
def test_impossible_values_are_refused_by_name(changes):
    with pytest.raises(ValueError, match=f"sampling.{next(iter(changes))}"):
        SamplingParams(**changes)


@pytest.mark.parametrize("name", ["stop_ids", "forbidden_ids", "logit_bias"])
@pytest.mark.parametrize("token", [-1, 9])
def test_tokens_outside_the_vocabulary_are_refused(name, token):
    value = {token: 1.0} if name == "logit_bias" else (token,)
    with pytest.raises(ValueError, match=f"token {token}, the vocabulary has 9"):
        make_arrays(9, **{name: value})


def test_forbidding_everything_is_refused():
    with pytest.raises(ValueError, match="forbids every token"):
        make_arrays(3, forbidden_ids=(0, 1, 2))


GRID = (np.arange(4000, dtype=np.float32) + 0.5) / 4000
LOGITS = 2 * np.random.default_rng(7).normal(size=20).astype(np.float32)


def draw_grid(**options):
    rows = np.broadcast_to(LOGITS, (len(GRID), len(LOGITS)))
    tokens, logp = map(np.asarray, sample(rows, GRID, **options))
    return tokens, logp


def assert_sampled_as(wanted_logits, **options):
    """Tokens come as often as the wanted distribution says; log-probs are its own."""
    tokens, logp = draw_grid(**options)
    wanted = log_softmax(wanted_logits)
    assert_drawn_as(np.exp(wanted), tokens)
    np.testing.assert_allclose(logp, wanted[tokens], atol=1e-5)


def test_min_p_keeps_what_is_likely_enough():
    probs = softmax(LOGITS)
    kept = np.where(probs >= 0.2 * probs.max(), LOGITS, -np.inf)
    assert 1 < np.isfinite(kept).sum() < 20
    assert_sampled_as(kept, min_p=0.2)


def test_bias_comes_before_the_temperature_and_forbidden_tokens_never_come():
    biased = LOGITS.copy()
    biased[3] += 2.5
    biased[int(LOGITS.argmax())] = -np.inf
    options = {"logit_bias": {3: 2.5}, "forbidden_ids": (int(LOGITS.argmax()),)}
    assert_sampled_as(biased / 0.5, temperature=0.5, **options)
    tokens, _ = draw_grid(temperature=0.0, **options)
    assert set(tokens) == {int(biased.argmax())}


def test_no_stop_comes_before_min_tokens():
    stops = tuple(np.argsort(-LOGITS)[:2].tolist())
    barred = LOGITS.copy()
    barred[list(stops)] = -np.inf
    assert_sampled_as(barred, min_tokens=3, stop_ids=stops, taken=1)
    assert_sampled_as(LOGITS, min_tokens=3, stop_ids=stops, taken=2)


def test_arrays_hold_every_parameter():
    """A parameter that never reaches the device would silently do nothing."""
    changes = {
        "temperature": 0.7,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.1,
        "max_tokens": 5,
        "min_tokens": 2,
        "stop_ids": (3, 8),
        "logit_bias": {1: 1.0},
        "forbidden_ids": (2,),
    }
    # The last two choose a program.
    on_the_host = {"stop_strings", "return_logp", "record_kept"}
    assert {f.name for f in dataclasses.fields(SamplingParams)} == set(changes) | on_the_host
    plain = make_arrays(9)
    for name, value in changes.items():
        with_it = make_arrays(9, **{name: value})
        same = jax.tree.map(np.array_equal, plain, with_it)
        assert not all(same), name
