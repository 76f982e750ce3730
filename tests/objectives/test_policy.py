"""Policy losses against hand-computed numbers and naive per-sequence loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives import PolicyObjective, policy, policy_loss

AGGREGATIONS = {
    "token_mean": {},
    "sequence_mean": {},
    "prompt_mean": {},
    "constant": {"constant_length": 7},
}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def test_clip_by_hand():
    # ratios 0.5, 1.1, 1.5 with A = 1, then with A = -1
    ratio = jnp.array([[0.5, 1.1, 1.5], [0.5, 1.1, 1.5]])
    loss, stats = policy_loss(
        PolicyObjective(clip_low=0.2, clip_high=0.28),
        logp=jnp.log(ratio),
        logp_old=jnp.zeros((2, 3)),
        advantages=jnp.array([1.0, -1.0]),
        mask=jnp.ones((2, 3), bool),
    )
    np.testing.assert_allclose(loss, -((0.5 + 1.1 + 1.28) - (0.8 + 1.1 + 1.5)) / 6, rtol=1e-14)
    means = policy.mean_stats(stats)
    np.testing.assert_allclose(means["clip_ratio/low_mean"], 1 / 6)
    np.testing.assert_allclose(means["clip_ratio/high_mean"], 1 / 6)
    np.testing.assert_allclose(means["clip_ratio/region_mean"], 2 / 6)
    np.testing.assert_allclose(means["ratio/mean"], 3.1 / 3)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregations_by_hand(aggregation):
    # three sequences of 1, 3 and 2 counted tokens; prompts {0, 1} and {2}; loss per token = -A
    mask = jnp.array([[1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
    advantages = jnp.array([1.0, 2.0, 4.0])
    objective = PolicyObjective(aggregation=aggregation, **AGGREGATIONS[aggregation])
    loss, _ = policy_loss(
        objective,
        logp=jnp.zeros((3, 3)),
        logp_old=None,
        advantages=advantages,
        mask=mask,
        prompt_ids=jnp.array([5, 5, 9]),
    )
    expected = {
        "token_mean": (1 + 6 + 8) / 6,
        "sequence_mean": (1 + 2 + 4) / 3,
        "prompt_mean": ((1 + 6) / 4 + 4) / 2,
        "constant": (1 + 6 + 8) / (3 * 7),
    }[aggregation]
    np.testing.assert_allclose(loss, -expected, rtol=1e-14)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_numpy_weights_equal_jax_weights(aggregation):
    rng = np.random.default_rng(0)
    objective = PolicyObjective(aggregation=aggregation, **AGGREGATIONS[aggregation])
    mask = rng.random((4, 11)) < 0.6
    segment_ids = rng.integers(-3, 4, (4, 11)) * 1000
    prompt_ids = rng.integers(0, 5, (4, 11))
    on_host = policy.token_weights(objective, mask, segment_ids=segment_ids, prompt_ids=prompt_ids)
    on_device = jax.jit(policy.token_weights, static_argnums=0)(
        objective,
        jnp.asarray(mask),
        segment_ids=jnp.asarray(segment_ids),
        prompt_ids=jnp.asarray(prompt_ids),
    )
    assert isinstance(on_host, np.ndarray)
    np.testing.assert_allclose(on_host, on_device, rtol=1e-6)


@pytest.mark.parametrize(
    ("surrogate", "ratio"),
    [("clip", "token"), ("cispo", "sequence"), ("sapo", "sequence_token"), ("reinforce", "token")],
)
def test_garbage_at_uncounted_tokens_has_no_influence(surrogate, ratio):
    rng = np.random.default_rng(1)
    mask = rng.random((3, 5)) < 0.6
    mask[2] = False
    clean = {
        name: jnp.asarray(rng.normal(size=(3, 5)) - 2) for name in ["logp", "logp_old", "logp_ref"]
    }
    objective = PolicyObjective(ratio=ratio, surrogate=surrogate, kl="k3_unbiased", kl_coef=0.1)

    def loss(logp, arrays):
        arrays = {**arrays, "logp": logp}
        return policy_loss(
            objective, advantages=jnp.arange(3.0) - 1, mask=jnp.asarray(mask), **arrays
        )[0]

    value, grad = jax.value_and_grad(loss)(clean["logp"], clean)
    for garbage in [-np.inf, 1e30, np.nan]:
        dirty = {name: jnp.where(mask, x, garbage) for name, x in clean.items()}
        dirty_value, dirty_grad = jax.value_and_grad(loss)(dirty["logp"], dirty)
        assert dirty_value == value
        np.testing.assert_array_equal(dirty_grad, grad)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_extreme_log_probs_are_finite(dtype):
    extremes = jnp.array([-jnp.inf, -1e30, -20.0, 0.0], dtype)
    logp = jnp.repeat(extremes, 4)[None]
    logp_old = jnp.tile(extremes, 4)[None]
    kinds = zip(
        ["k1", "k2", "k3", "k3_unbiased"], ["clip", "cispo", "sapo", "reinforce"], strict=True
    )
    for kl, surrogate in kinds:
        objective = PolicyObjective(surrogate=surrogate, kl=kl, kl_coef=1.0)

        @jax.jit
        def loss(logp, advantage, objective=objective):
            return policy_loss(
                objective,
                logp=logp,
                logp_old=logp_old,
                logp_ref=logp_old,
                logp_behavior=logp_old,
                advantages=advantage,
                mask=jnp.ones((1, 16), bool),
            )

        for sign in [1.0, -1.0]:
            (value, stats), grad = jax.value_and_grad(loss, has_aux=True)(
                logp, jnp.full((1,), sign, dtype)
            )
            assert jnp.isfinite(value)
            assert jnp.isfinite(grad.astype("float32")).all()
            assert all(jnp.isfinite(x) for x in stats.values())


def test_ratios_up_to_twenty_nats_are_exact():
    # A < 0 without dual clip is unbounded: -r A = e^20; the gradient is the same number
    for log_ratio in [20.0, -20.0, 19.0]:
        value, grad = jax.value_and_grad(
            lambda x: policy_loss(
                PolicyObjective(clip_low=None, clip_high=None),
                logp=x,
                logp_old=jnp.full((1, 1), -30.0),
                advantages=-jnp.ones(1),
                mask=jnp.ones((1, 1), bool),
            )[0]
        )(jnp.full((1, 1), -30.0 + log_ratio))
        np.testing.assert_allclose(value, np.exp(log_ratio), rtol=1e-12)
        np.testing.assert_allclose(grad, np.exp(log_ratio), rtol=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nothing_counts(aggregation):
    objective = PolicyObjective(aggregation=aggregation, **AGGREGATIONS[aggregation])
    zeros = jnp.zeros((2, 3))

    def loss(logp, segment_ids):
        return policy_loss(
            objective,
            logp=logp,
            logp_old=zeros - 1,
            advantages=zeros + 1,
            mask=zeros > 1,
            segment_ids=segment_ids,
            prompt_ids=jnp.array([0, 1]),
        )

    empty = policy_loss(
        objective,
        logp=zeros[:0],
        logp_old=None,
        advantages=zeros[:0],
        mask=zeros[:0] > 1,
        prompt_ids=jnp.zeros(0, "int32"),
    )
    assert empty[0] == 0
    for segment_ids in [None, jnp.zeros((2, 3), "int32")]:
        (value, stats), grad = jax.value_and_grad(loss, has_aux=True)(zeros, segment_ids)
        assert value == 0
        assert not grad.any()
        assert all(jnp.isfinite(x) for x in policy.mean_stats(stats).values())


def test_a_nan_that_counts_is_not_hidden():
    loss, _ = policy_loss(
        PolicyObjective(),
        logp=jnp.array([[0.0, jnp.nan]]),
        logp_old=None,
        advantages=jnp.ones(1),
        mask=jnp.ones((1, 2), bool),
    )
    assert jnp.isnan(loss)


def test_gradient_flows_through_logp_and_entropy_only():
    arrays = {
        name: jnp.full((1, 3), -1.0 - 0.1 * i)
        for i, name in enumerate(["logp", "logp_old", "logp_ref", "logp_behavior", "entropy"])
    }
    arrays["advantages"] = jnp.ones((1, 3))
    objective = PolicyObjective(
        kl="k3", kl_coef=1.0, entropy_coef=0.5, correction="tis", correction_high=9.0
    )
    grads = jax.grad(lambda x: policy_loss(objective, mask=jnp.ones((1, 3), bool), **x)[0])(arrays)
    assert grads["logp"].any()
    np.testing.assert_allclose(grads["entropy"], -0.5 / 3)
    for name in ["logp_old", "logp_ref", "logp_behavior", "advantages"]:
        assert not grads[name].any(), name


def test_coefficients_may_be_traced():
    def loss(coef):
        objective = PolicyObjective(entropy_coef=coef, kl="k2", kl_coef=2 * coef)
        return policy_loss(
            objective,
            logp=jnp.zeros((1, 2)),
            logp_old=None,
            logp_ref=jnp.ones((1, 2)),
            advantages=jnp.zeros(1),
            mask=jnp.ones((1, 2), bool),
            entropy=jnp.full((1, 2), 3.0),
        )[0]

    np.testing.assert_allclose(jax.jit(loss)(jnp.asarray(0.1)), 0.2 * 0.5 - 0.1 * 3)


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"kl": "k3", "kl_coef": 0.1}, "logp_ref"),
        ({"entropy_coef": 0.1}, "entropy"),
        ({"correction": "tis", "correction_high": 2.0}, "logp_behavior"),
        ({"aggregation": "prompt_mean"}, "prompt_ids"),
    ],
)
def test_missing_inputs_are_named(fields, missing):
    with pytest.raises(ValueError, match=missing):
        policy_loss(
            PolicyObjective(**fields),
            logp=jnp.zeros((1, 2)),
            logp_old=None,
            advantages=jnp.zeros(1),
            mask=jnp.ones((1, 2), bool),
        )


def test_fields_are_checked():
    with pytest.raises((ValueError, TypeError), match="word"):
        PolicyObjective(ratio="word")
    for fields, message in [
        ({"aggregation": "constant"}, "constant_length"),
        ({"kl_coef": 0.1}, "estimator"),
        ({"correction": "tis"}, "correction_high"),
        ({"dual_clip": 0.5}, "exceed 1"),
        ({"clip_low": -0.2}, "clip_low=-0.2: must be 0 or more"),
        ({"clip_high": -0.2}, "clip_high=-0.2"),
        ({"kl": "k3", "kl_coef": -0.1}, "kl_coef=-0.1"),
        ({"correction": "tis", "correction_high": -2.0}, "correction_high=-2.0"),
        ({"correction": "icepop", "correction_low": 2, "correction_high": 1}, "is above"),
        ({"aggregation": "constant", "constant_length": 0}, "constant_length=0"),
        ({"surrogate": "sapo", "sapo_tau": (1.0, 0.0)}, "above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            PolicyObjective(**fields)
    assert dataclasses.replace(PolicyObjective(), clip_high=0.28).clip_high == 0.28


def test_weights_and_denominator_exclude_each_other():
    arrays = {"logp": jnp.zeros((1, 2)), "logp_old": None, "advantages": jnp.zeros(1)}
    mask = jnp.ones((1, 2), bool)
    with pytest.raises(ValueError, match="or denominator"):
        policy_loss(PolicyObjective(), mask=mask, weights=jnp.ones((1, 2)), denominator=2, **arrays)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_a_constant_beyond_32_bits(array):
    objective = PolicyObjective(aggregation="constant", constant_length=2**30)
    weights = policy.token_weights(objective, array(np.ones((8, 1), bool)))
    np.testing.assert_allclose(weights, 2.0**-33)


def test_denominators_of_any_kind():
    def loss(denominator):
        return policy_loss(
            PolicyObjective(),
            logp=jnp.zeros((1, 2), "float32"),
            logp_old=None,
            advantages=np.ones(1),
            mask=np.ones((1, 2), bool),
            denominator=denominator,
        )[0]

    for denominator in [4, 4.0, np.int64(4), np.float64(4), jnp.asarray(4), jnp.asarray(4.0)]:
        assert loss(denominator) == -0.5


def test_a_kl_in_the_reward_is_not_in_the_loss():
    given = {
        "logp": jnp.array([[-1.0, -2.0]]),
        "logp_old": jnp.array([[-1.5, -2.5]]),
        "advantages": jnp.ones((1, 2)),
        "mask": jnp.ones((1, 2), bool),
    }
    objective = PolicyObjective(kl="k1", kl_coef=0.5, kl_in_reward=True)
    assert objective.needs_reference
    loss, stats = policy_loss(objective, **given, logp_ref=jnp.array([[-3.0, -4.0]]))
    plain, _ = policy_loss(PolicyObjective(), **given)
    assert loss == plain
    assert stats["kl_sum"] > 0
    with pytest.raises(ValueError, match="kl_in_reward needs kl='k1'"):
        PolicyObjective(kl_in_reward=True)


BY_TOKEN = [
    {},
    {"surrogate": "cispo", "aggregation": "prompt_mean"},
    {"kl": "k3_unbiased", "kl_coef": 0.1, "entropy_coef": 0.1},
    {"correction": "tis", "correction_high": 2.0},
    {"correction": "icepop", "correction_low": 0.5, "correction_high": 2.0},
]
BY_SEQUENCE = [
    {"ratio": "sequence"},
    {"ratio": "sequence_token"},
    {"correction": "sequence_mask", "correction_low": 0.5, "correction_high": 2.0},
    {"correction": "sequence_product_tis", "correction_high": 2.0},
    {"correction": "sequence_product_mask", "correction_high": 2.0},
    {"off_policy_delta": 0.1},
]


@pytest.mark.parametrize("fields", [*BY_TOKEN, *BY_SEQUENCE])
def test_by_token_a_gradient_does_not_know_of_other_tokens(fields):
    """Log-probs of the sequence's last token, new and old, move as far as they may."""
    rng = np.random.default_rng(7)
    logp, old, ref, behavior = (jnp.asarray(x) for x in rng.normal(-2, 0.05, (4, 1, 6)))
    objective = PolicyObjective(**fields)
    weights = jnp.full((1, 6), 1 / 6)

    def by_first(move):
        def loss(logp):
            return policy_loss(
                objective,
                logp=logp + move,
                logp_old=old - move,
                advantages=-jnp.ones(1),
                mask=jnp.ones((1, 6), bool),
                logp_ref=ref,
                logp_behavior=behavior,
                entropy=jnp.exp(logp),
                weights=weights,
            )[0]

        return np.asarray(jax.grad(loss)(logp)[0, 0])

    moves = [jnp.zeros((1, 6)).at[0, -1].set(size) for size in (0.0, 0.1, -0.1, 9.0, -9.0)]
    found = {float(by_first(move)) for move in moves}
    assert objective.is_by_token == (fields in BY_TOKEN)
    assert (len(found) == 1) == objective.is_by_token
