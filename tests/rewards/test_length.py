"""Length rewards: the printed numbers, bounds, monotony, clipping."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards import length

LENGTHS = st.integers(0, 100_000)


@pytest.mark.parametrize(
    ("n_tokens", "reward"),
    [(0, 0), (16_384, 0), (18_432, -0.5), (20_480, -1), (20_481, -1), (10**9, -1)],
)
def test_soft_overlong_of_dapo(n_tokens, reward):
    assert length.soft_overlong(n_tokens, 20_480, 4096) == reward


@settings(deadline=None)
@given(LENGTHS, LENGTHS, st.integers(1, 50_000), st.data())
def test_soft_overlong_falls_with_length_within_bounds(a, b, max_len, data):
    cache = data.draw(st.integers(0, max_len))
    low, high = sorted((a, b))
    shorter = length.soft_overlong(low, max_len, cache)
    longer = length.soft_overlong(high, max_len, cache)
    assert -1 <= longer <= shorter <= 0


@pytest.mark.parametrize("arguments", [(-1, 10, 2), (1, 0, 0), (1, 10, 11), (1, 10, -1)])
def test_lengths_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match=r"length|cache"):
        length.soft_overlong(*arguments)


def test_truncated_samples_are_masked_or_punished():
    assert length.overlong_filter(1.0, truncated=False) == 1.0
    assert length.overlong_filter(0, truncated=False) == 0.0
    assert length.overlong_filter(None, truncated=False) is None
    assert length.overlong_filter(1.0, truncated=True) is None
    assert length.overlong_filter(None, truncated=True, punishment=-1.0) == -1.0


@pytest.mark.parametrize(
    ("n_tokens", "correct", "reward"),
    [(0, True, 1), (500, True, 0.75), (1000, True, 0.5), (0, False, -1), (1000, False, -0.5)],
)
def test_cosine_at_its_corners(n_tokens, correct, reward):
    assert length.cosine(n_tokens, 1000, correct) == pytest.approx(reward)


@settings(deadline=None)
@given(LENGTHS, LENGTHS, st.integers(1, 50_000))
def test_cosine_is_monotonic_and_clipped(a, b, max_len):
    low, high = sorted((a, b))
    assert length.cosine(low, max_len, True) >= length.cosine(high, max_len, True) - 1e-12
    assert length.cosine(low, max_len, False) <= length.cosine(high, max_len, False) + 1e-12
    end = length.cosine(max_len, max_len, False)
    assert length.cosine(max_len + high, max_len, False) == end
    assert length.cosine(high, max_len, True) > length.cosine(high, max_len, False)


def test_kimi_by_hand():
    rewards = length.kimi([100, 200, 300, 150], [True, True, False, False])
    assert rewards == [0.5, 0.0, -0.5, 0.0]


def test_kimi_needs_two_lengths():
    assert length.kimi([7, 7], [True, False]) == [0.0, 0.0]
    assert length.kimi([], []) == []
    with pytest.raises(ValueError, match="1 lengths"):
        length.kimi([7], [])


@settings(deadline=None)
@given(st.lists(st.tuples(LENGTHS, st.booleans()), min_size=1))
def test_kimi_never_pays_a_wrong_answer_and_prefers_the_shorter(group):
    lengths, correct = [list(column) for column in zip(*group, strict=True)]
    rewards = length.kimi(lengths, correct)
    for reward, right in zip(rewards, correct, strict=True):
        assert -0.5 <= reward <= (0.5 if right else 0.0)
    ordered = sorted((n, -r) for n, r, c in zip(lengths, rewards, correct, strict=True) if c)
    assert [r for _, r in ordered] == sorted(r for _, r in ordered)
