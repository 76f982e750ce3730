"""Advantages against hand-computed numbers and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives import advantages


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def test_pass_rate_table():
    # G = 8, binary rewards, population deviation: 1 of 8 right, 4 of 8 right
    one = advantages.group_normalized(jnp.array([[1.0] + [0.0] * 7]), ddof=0, eps=0.0)
    np.testing.assert_allclose(one[0, :2], [7**0.5, -(7**-0.5)], rtol=1e-12)
    half = advantages.group_normalized(jnp.array([[1.0] * 4 + [0.0] * 4]), ddof=0, eps=0.0)
    np.testing.assert_allclose(half[0], [1.0] * 4 + [-1.0] * 4, rtol=1e-12)


def test_scales_by_hand():
    rewards = jnp.array([[1.0, 0.0], [3.0, 1.0]])
    std = advantages.group_normalized(rewards, eps=0.0)
    np.testing.assert_allclose(std, [[0.5**0.5, -(0.5**0.5)]] * 2, rtol=1e-12)
    none = advantages.group_normalized(rewards, scale="none")
    np.testing.assert_allclose(none, [[0.5, -0.5], [1.0, -1.0]])
    # all rewards 1, 0, 3, 1: mean 1.25, sum of squares 4.75, over 3
    batch = advantages.group_normalized(rewards, scale="batch_std", eps=0.0)
    np.testing.assert_allclose(batch, none / (4.75 / 3) ** 0.5, rtol=1e-12)


@pytest.mark.parametrize(
    "compute",
    [
        advantages.group_normalized,
        lambda r, **kw: advantages.group_normalized(r, scale="batch_std", **kw),
        advantages.rloo,
        advantages.max_rl,
        advantages.reinforce_pp_baseline,
        lambda r, **kw: advantages.gdpo(r[None], jnp.ones(1, r.dtype), **kw),
    ],
)
def test_invalid_samples_are_as_if_absent(compute):
    rng = np.random.default_rng(0)
    rewards = rng.random((1, 5))
    valid = np.array([[True, False, True, True, False]])
    short = compute(jnp.asarray(rewards[valid][None]))
    full = compute(jnp.asarray(np.where(valid, rewards, 1e9)), valid=jnp.asarray(valid))
    np.testing.assert_allclose(np.asarray(full)[valid], short[0], rtol=1e-9)
    assert not np.asarray(full)[~valid].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [1, 7])
def test_flat_groups_get_exactly_zero(samples, dtype):
    rewards = jnp.repeat(jnp.array([[0.1], [1 / 3], [0.0], [-7.7]], dtype), samples, axis=1)
    for compute in [advantages.group_normalized, advantages.rloo, advantages.max_rl]:
        assert not compute(rewards).any()
    assert not advantages.group_normalized(rewards, valid=rewards > 1e9).any()


def test_without_eps_nothing_is_divided_by_a_deviation_of_zero():
    flat = jnp.ones((2, 4))
    for scale in ("std", "batch_std"):
        assert not advantages.group_normalized(flat, scale=scale, eps=0.0).any()
    assert not advantages.gdpo(flat[None], jnp.ones(1), eps=0.0).any()
    ends = jnp.zeros((1, 2, 4), int)
    assert not advantages.process_sum(flat[None], ends, length=2, eps=0.0).any()
    assert not advantages.whiten(flat, flat > 0, eps=0.0).any()
    assert not advantages.reinforce_pp_baseline(flat, eps=0.0).any()
    # A broken reward is no flat group.
    assert jnp.isnan(advantages.group_normalized(flat.at[0, 0].set(jnp.nan), eps=0.0)[0]).all()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_no_prompts_and_no_samples_are_no_advantages(shape):
    for compute in (
        advantages.group_normalized,
        advantages.rloo,
        advantages.max_rl,
        advantages.reinforce_pp_baseline,
    ):
        assert compute(np.zeros(shape)).shape == shape


def test_rloo_is_leave_one_out():
    rewards = np.random.default_rng(1).random((3, 4))
    expected = [[row[i] - np.delete(row, i).mean() for i in range(len(row))] for row in rewards]
    np.testing.assert_allclose(advantages.rloo(jnp.asarray(rewards)), expected, rtol=1e-12)
    centred = advantages.group_normalized(jnp.asarray(rewards), scale="none")
    np.testing.assert_allclose(advantages.rloo(jnp.asarray(rewards)), centred * 4 / 3, rtol=1e-12)


def test_max_rl_by_hand():
    result = advantages.max_rl(jnp.array([[1.0, 0.0, 0.0, 0.0], [0.0] * 4]))
    np.testing.assert_allclose(result, [[3.0, -1.0, -1.0, -1.0], [0.0] * 4])


def test_process_sum_by_hand():
    # one prompt, two samples: steps ending at tokens 1 and 3 with rewards 1, 0; one at 2 with 2
    step_rewards = jnp.array([[[1.0, 0.0], [2.0, 99.0]]])
    step_ends = jnp.array([[[1, 3], [2, -1]]])
    result = advantages.process_sum(step_rewards, step_ends, length=5, eps=0.0)
    # rewards 1, 0, 2: mean 1, deviation 1 -> 0, -1, 1
    np.testing.assert_allclose(result[0, 0], [-1.0, -1.0, -1.0, -1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(result[0, 1], [1.0, 1.0, 1.0, 0.0, 0.0], atol=1e-15)


def test_one_step_of_process_supervision_is_outcome_supervision():
    rewards = jnp.asarray(np.random.default_rng(2).random((3, 4)))
    ends = jnp.full((3, 4, 1), 5)
    by_step = advantages.process_sum(rewards[..., None], ends, length=6)
    by_outcome = advantages.group_normalized(rewards)
    np.testing.assert_allclose(by_step, jnp.repeat(by_outcome[..., None], 6, axis=-1), rtol=1e-12)


def gae_by_loop(rewards, values, gamma, lam):
    result = np.zeros(len(rewards))
    advantage, value = 0.0, 0.0
    for t in reversed(range(len(rewards))):
        advantage = rewards[t] + gamma * value - values[t] + gamma * lam * advantage
        value = values[t]
        result[t] = advantage
    return result


def test_gae_of_packed_rows_is_gae_of_each_sequence():
    rng = np.random.default_rng(3)
    segment_ids = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [9, 9, 4, 4, 4, 4, 4, 4]])
    mask = (segment_ids != 0) & (rng.random(segment_ids.shape) < 0.7)
    rewards, values = rng.normal(size=(2, 2, 8))
    result, returns = advantages.gae(
        jnp.asarray(np.where(mask, rewards, np.nan)),
        jnp.asarray(np.where(mask, values, np.nan)),
        jnp.asarray(mask),
        gamma=0.9,
        lam=0.8,
        segment_ids=jnp.asarray(segment_ids),
    )
    for row in range(2):
        for segment in [1, 2, 4, 9]:
            at = mask[row] & (segment_ids[row] == segment)
            expected = gae_by_loop(rewards[row, at], values[row, at], 0.9, 0.8)
            np.testing.assert_allclose(np.asarray(result)[row, at], expected, rtol=1e-12)
    np.testing.assert_array_equal(result, np.where(mask, result, 0))
    np.testing.assert_allclose(np.asarray(returns)[mask], (np.asarray(result) + values)[mask])


def test_gae_with_lambda_one_returns_the_reward_to_go():
    rewards = jnp.asarray(np.random.default_rng(4).normal(size=(2, 5)))
    values = jnp.asarray(np.random.default_rng(5).normal(size=(2, 5)))
    mask = jnp.ones((2, 5), bool)
    _, returns = advantages.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    to_go = np.cumsum(np.asarray(rewards)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(returns, to_go, rtol=1e-12)


def test_length_adaptive_lambda():
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)
    lam = advantages.length_adaptive_lambda(mask, alpha=0.5)
    np.testing.assert_allclose(lam, [[0.5] * 4, [0.0] * 4])


def test_token_rewards_and_reinforce_pp():
    mask = jnp.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]], bool)
    kl = jnp.array([[9.0, 1.0, 2.0, 9.0, 3.0], [1.0, 1.0, 9.0, 9.0, 9.0]])
    rewards = advantages.token_rewards(jnp.array([10.0, 20.0]), mask, kl=kl, kl_coef=0.5)
    np.testing.assert_allclose(rewards, [[0, -0.5, -1.0, 0, 8.5], [-0.5, 19.5, 0, 0, 0]])
    result = np.asarray(advantages.reinforce_pp(rewards, mask))
    returns = np.array([7.0, 7.5, 8.5, 19.0, 19.5])
    expected = (returns - returns.mean()) / np.sqrt(returns.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(result[np.asarray(mask)], expected, rtol=1e-12)
    assert not result[~np.asarray(mask)].any()


def test_token_rewards_of_packed_rows():
    segment_ids = jnp.array([[3, 3, 1, 1, 1, 0]])
    mask = jnp.array([[1, 1, 0, 1, 0, 0]], bool)
    outcome = jnp.array([[5.0, 5.0, 7.0, 7.0, 7.0, 0.0]])
    rewards = advantages.token_rewards(outcome, mask, segment_ids=segment_ids)
    np.testing.assert_allclose(rewards, [[0, 5, 0, 7, 0, 0]])


def test_zero_variance_groups_learn_from_entropy():
    entropy = jnp.array([[1.0, 3.0, 50.0], [1.0, 3.0, 50.0], [1.0, 3.0, 50.0]])
    mask = jnp.array([[1, 1, 0]] * 3, bool)
    result = advantages.zero_variance(
        jnp.full((3, 3), 0.7),
        entropy,
        mask,
        is_all_right=jnp.array([[True] * 3, [False] * 3, [False] * 3]),
        is_all_wrong=jnp.array([[False] * 3, [True] * 3, [False] * 3]),
        alpha=0.1,
    )
    np.testing.assert_allclose(result, [[0.1, 0.3, 0], [-0.2, 0, 0], [0.7, 0.7, 0]], atol=1e-15)


def test_gdpo_by_hand():
    rewards = np.random.default_rng(6).random((2, 3, 4))
    weights = np.array([1.0, 0.5])
    mean, std = rewards.mean(axis=2, keepdims=True), rewards.std(axis=2, ddof=1, keepdims=True)
    summed = (weights[:, None, None] * (rewards - mean) / (std + 1e-4)).sum(axis=0)
    expected = (summed - summed.mean()) / (summed.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(advantages.gdpo(rewards, weights), expected, rtol=1e-12)


def test_reinforce_pp_baseline_by_hand():
    rewards = np.array([[1.0, 0.0], [3.0, 1.0]])
    centred = np.array([0.5, -0.5, 1.0, -1.0])
    plain = advantages.reinforce_pp_baseline(rewards)
    np.testing.assert_allclose(
        np.ravel(plain), centred / np.sqrt(centred.var(ddof=1) + 1e-8), rtol=1e-12
    )
    lengths = np.array([[1, 2], [3, 1]])
    tokens = np.repeat(centred, lengths.reshape(-1))
    by_token = advantages.reinforce_pp_baseline(rewards, lengths_PG=lengths)
    expected = (centred - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(np.ravel(by_token), expected, rtol=1e-12)
