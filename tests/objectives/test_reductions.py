"""Sums over sequences and groups, against loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives import reductions


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_sums_and_counts_against_loops(kind):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 9)).astype("float32")
    ids = rng.choice([-7, 0, 3, 10**9], (3, 9)).astype("int32")
    expected = [[values[b][ids[b] == ids[b, t]].sum() for t in range(9)] for b in range(3)]
    result = reductions.sequence_sum(kind(values), kind(ids))
    assert isinstance(result, type(kind(values)))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    count = reductions.sequence_count(kind(ids > 0), kind(ids))
    assert count == sum(len(set(row) - {0}) for row in ids.tolist())
    assert reductions.sequence_count(kind(ids > 0), None) == 3
    np.testing.assert_allclose(
        reductions.sequence_sum(kind(values), None)[:, 0], values.sum(axis=1), rtol=1e-5
    )


def test_largest_of_negative_values():
    values = jnp.array([[-5.0, -3.0, -9.0, -1.0]])
    ids = jnp.array([[2, 2, 8, 0]])
    result = reductions.sequence_max(values, ids)
    np.testing.assert_array_equal(result, [[-3.0, -3.0, -9.0, -1.0]])
    np.testing.assert_array_equal(reductions.sequence_max(values, None), np.full((1, 4), -1.0))
