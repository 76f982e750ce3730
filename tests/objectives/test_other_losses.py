"""Value, preference, supervised and distillation losses, corrections and token selection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile_fully

from r1jax.objectives import (
    controllers,
    correction,
    distillation,
    kl,
    preference,
    selection,
    supervised,
    value,
)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def test_value_loss_by_hand():
    loss, stats = value.clipped_value_loss(
        jnp.array([[1.0, 1.0, 1.0, jnp.nan]]),
        jnp.array([[0.0, 3.0, 0.0, 0.0]]),
        jnp.array([[True, True, True, False]]),
        values_old=jnp.array([[1.5, 0.5, 0.5, 0.0]]),
        clip=0.2,
    )
    # held in [1.3, 1.7]: 1.3^2 > 1; in [0.3, 0.7]: 2.3^2 > 2^2; in the same: 0.7^2 < 1
    np.testing.assert_allclose(loss, 0.5 * (1.3**2 + 2.3**2 + 1) / 3)
    assert (stats["vf_clipfrac_sum"], stats["vf_error_sum"], stats["tokens"]) == (2, 6, 3)
    plain, _ = value.clipped_value_loss(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones((1, 2), bool))
    assert plain == 0.5
    weights = jnp.array([[0.25, 0.5]])
    weighed, _ = value.clipped_value_loss(
        jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2)), jnp.ones((1, 2), bool), weights=weights
    )
    assert weighed == 0.5 * (0.25 * 1 + 0.5 * 4)
    with pytest.raises(ValueError, match="values_old"):
        value.clipped_value_loss(
            jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones((1, 2), bool), clip=1.0
        )


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def test_dpo_by_hand():
    chosen, rejected = jnp.array([-1.0, -2.0, jnp.nan]), jnp.array([-3.0, -1.0, 0.0])
    ref = {"ref_chosen": jnp.array([-1.5, -2.0, 0.0]), "ref_rejected": jnp.array([-2.5, -2.0, 0.0])}
    mask = jnp.array([True, True, False])
    # h = 0.5 - (-0.5) = 1 and 0 - 1 = -1
    loss, stats = preference.dpo_loss(chosen, rejected, beta=0.1, mask=mask, **ref)
    np.testing.assert_allclose(loss, -(log_sigmoid(0.1) + log_sigmoid(-0.1)) / 2)
    np.testing.assert_allclose(stats["rewards/chosen_sum"], 0.05)
    np.testing.assert_allclose(stats["rewards/margins_sum"], 0.0, atol=1e-15)
    assert (stats["rewards/accuracies_sum"], stats["pairs"]) == (1, 2)
    smooth, _ = preference.dpo_loss(
        chosen, rejected, beta=0.1, mask=mask, label_smoothing=0.25, denominator=4.0, **ref
    )
    expected = -(log_sigmoid(0.1) + log_sigmoid(-0.1)) / 4
    np.testing.assert_allclose(smooth, expected)
    ipo, _ = preference.dpo_loss(chosen, rejected, beta=0.25, mask=mask, loss="ipo", **ref)
    np.testing.assert_allclose(ipo, ((1 - 2) ** 2 + (-1 - 2) ** 2) / 2)
    free, _ = preference.dpo_loss(chosen[:2], rejected[:2], beta=1.0)
    np.testing.assert_allclose(free, -(log_sigmoid(2.0) + log_sigmoid(-1.0)) / 2)
    with pytest.raises(ValueError, match="both"):
        preference.dpo_loss(chosen, rejected, beta=1.0, ref_chosen=chosen)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_impossible_answers_are_finite(loss, dtype):
    """Every pair of possible and impossible answers, with and without a reference as sure."""
    logp = jnp.array([-3.0, -jnp.inf, -1e30], dtype)
    pairs = jnp.repeat(logp, 3), jnp.tile(logp, 3)
    for refs in ({}, {"ref_chosen": pairs[1], "ref_rejected": pairs[0]}):
        for smoothing in (0.0, 0.1):
            options = {"beta": 0.1, "loss": loss, "label_smoothing": smoothing, **refs}

            def total(chosen, rejected, options=options):
                return preference.dpo_loss(chosen, rejected, **options)[0]

            value, grads = jax.value_and_grad(total, argnums=(0, 1))(*pairs)
            assert np.isfinite(value)
            assert all(np.isfinite(x).all() for x in grads)
    mask = jnp.ones((1, 3), bool)
    value, grad = jax.value_and_grad(lambda x: supervised.token_loss(x, mask))(logp[None])
    np.testing.assert_allclose(value, (3 + 2e4) / 3, rtol=1e-6)
    np.testing.assert_allclose(grad, [[-1 / 3, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(preference.sequence_logp(logp[None], mask)[0], -3 - 2e4, rtol=1e-6)


def test_label_smoothing_moves_the_optimum_inside():
    def loss(h):
        return preference.dpo_loss(h[None], jnp.zeros(1), beta=1.0, label_smoothing=0.1)[0]

    # zero gradient where sigma(h) = 0.9
    np.testing.assert_allclose(jax.grad(loss)(jnp.log(9.0)), 0.0, atol=1e-12)


def test_sequence_logp():
    logp = jnp.array([[-1.0, -2.0, -3.0, -jnp.inf]])
    mask = jnp.array([[True, True, True, False]])
    segment_ids = jnp.array([[1, 1, 2, 2]])
    total = preference.sequence_logp(logp, mask, segment_ids=segment_ids)
    np.testing.assert_allclose(total, [[-3.0, -3.0, -3.0, -3.0]])
    mean = preference.sequence_logp(logp, mask, average=True)
    np.testing.assert_allclose(mean, np.full((1, 4), -2.0))


def test_reward_model_losses_by_hand():
    loss, stats = preference.bradley_terry_loss(jnp.array([2.0, 0.0]), jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(loss, -(log_sigmoid(1.0) + log_sigmoid(-0.5)) / 2)
    assert stats["accuracy_sum"] == 1
    margin, _ = preference.bradley_terry_loss(jnp.ones(1), jnp.zeros(1), margin=jnp.ones(1))
    np.testing.assert_allclose(margin, np.log(2))
    huge, _ = preference.bradley_terry_loss(jnp.array([-1e6]), jnp.zeros(1))
    assert huge == 1e6


def test_binary_loss_by_hand():
    logits = jnp.array([[2.0, -1.0, jnp.inf], [1e5, -1e5, 0.0]])
    labels = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    loss, stats = preference.binary_loss(logits, labels, mask)
    total = -log_sigmoid(2.0) - log_sigmoid(-1.0) + 1e5 + 0 + np.log(2)
    np.testing.assert_allclose(loss, total / 5)
    assert (stats["accuracy_sum"], stats["labels"]) == (3, 5)


def test_token_loss_by_hand():
    logp = jnp.array([[-1.0, -2.0, -jnp.inf]])
    mask = jnp.array([[True, True, False]])
    np.testing.assert_allclose(supervised.token_loss(logp, mask), 1.5)
    np.testing.assert_allclose(supervised.token_loss(logp, mask, denominator=6.0), 0.5)
    with_z = supervised.token_loss(logp, mask, log_z=jnp.array([[2.0, 1.0, 9.0]]), z_coef=0.1)
    np.testing.assert_allclose(with_z, 1.5 + 0.1 * (4 + 1) / 2)
    assert supervised.token_loss(logp, mask & False) == 0


def make_heads(rng):
    return {
        "student_hidden": jnp.asarray(rng.normal(size=(2, 5, 3))),
        "student_head": jnp.asarray(rng.normal(size=(3, 7))),
        "teacher_hidden": jnp.asarray(rng.normal(size=(2, 5, 4))),
        "teacher_head": jnp.asarray(rng.normal(size=(4, 7))),
    }


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("chunk", [3, 64])
def test_distillation_in_chunks(direction, chunk):
    rng = np.random.default_rng(0)
    heads = make_heads(rng)
    mask = jnp.asarray(rng.random((2, 5)) < 0.7)
    student = jax.nn.softmax(heads["student_hidden"] @ heads["student_head"] / 0.7)
    teacher = jax.nn.softmax(heads["teacher_hidden"] @ heads["teacher_head"] / 0.7)
    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    expected = (first * jnp.log(first / second)).sum(-1)[mask].mean()
    options = {"direction": direction, "temperature": 0.7, "chunk": chunk}
    loss = distillation.distillation_loss(**heads, mask=mask, **options)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    dirty = heads | {"student_hidden": jnp.where(mask[..., None], heads["student_hidden"], jnp.inf)}
    grads = jax.grad(lambda x: distillation.distillation_loss(**x, mask=mask, **options))(dirty)
    assert all(jnp.isfinite(g).all() for g in grads.values())
    assert grads["student_head"].any()
    assert not grads["teacher_head"].any()


def test_distillation_forms_no_logits_of_all_tokens():
    shapes = {"student_hidden": (4, 512, 8), "student_head": (8, 1000)}
    shapes |= {"teacher_hidden": (4, 512, 8), "teacher_head": (8, 1000)}
    arrays = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    mask = jax.ShapeDtypeStruct((4, 512), bool)
    gradient = jax.grad(lambda x, m: distillation.distillation_loss(**x, mask=m, chunk=128))
    lowered = jax.jit(gradient).lower(arrays, mask)
    memory = compile_fully(lowered).memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 512 * 1000 * 4


def test_divergence_of_excluded_tokens():
    student = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    teacher = jnp.log(jnp.array([0.5, 0.5, 0.0]))
    result, grad = jax.value_and_grad(lambda x: distillation.divergence(x, teacher))(student)
    np.testing.assert_allclose(result, 0.5 * np.log(2), rtol=1e-12)
    np.testing.assert_allclose(grad, [0.0, -0.25, 0.25], atol=1e-12)


def test_corrections_by_hand():
    log_weight = jnp.log(jnp.array([[0.5, 4.0, 9.0], [1.0, 1.1, 9.0]]))
    mask = jnp.array([[True, True, False], [True, True, False]])

    def weights(kind, low, high):
        result = correction.correction_weights(kind, log_weight, mask, low=low, high=high)
        return np.asarray(result)[:, :2]

    np.testing.assert_allclose(weights("none", None, None), np.ones((2, 2)))
    np.testing.assert_allclose(weights("tis", None, 2.0), [[0.5, 2.0], [1.0, 1.1]])
    np.testing.assert_allclose(weights("icepop", 0.6, 5.0), [[0.0, 4.0], [1.0, 1.1]])
    # geometric means 2^0.5 and 1.1^0.5, products 2 and 1.1
    np.testing.assert_allclose(weights("sequence_mask", 0.5, 1.2), [[0, 0], [1.0, 1.1]])
    np.testing.assert_allclose(weights("sequence_mask", 1.2, 1.5), [[0.5, 4.0], [0, 0]])
    np.testing.assert_allclose(weights("sequence_product_tis", None, 1.5), [[1.5, 1.5], [1.1, 1.1]])
    np.testing.assert_allclose(weights("sequence_product_mask", None, 1.5), [[0, 0], [1.1, 1.1]])


def test_off_policy_sequence_mask_by_hand():
    drift = jnp.array([[0.2, 0.6, 99.0]] * 2)
    mask = jnp.array([[True, True, False]] * 2)
    advantages = jnp.array([[1.0] * 3, [-1.0] * 3])
    zero = jnp.zeros((2, 3))
    for delta, kept in [(0.39, False), (0.41, True)]:
        result = correction.off_policy_sequence_mask(zero, drift, advantages, mask, delta=delta)
        assert result[0].all()
        assert (result[1, :2] == kept).all()


def test_clip_cov_leaves_out_a_share():
    rng = np.random.default_rng(1)
    covariance = jnp.asarray(rng.uniform(0, 6, (20, 50)))
    mask = jnp.asarray(rng.random((20, 50)) < 0.9)
    kept = selection.clip_cov(jax.random.key(0), covariance, mask, share=0.01)
    left_out = np.asarray(mask & ~kept)
    assert left_out.sum() == int(0.01 * int(mask.sum()))
    assert ((covariance[left_out] > 1) & (covariance[left_out] < 5)).all()
    other = selection.clip_cov(jax.random.key(1), covariance, mask, share=0.01)
    assert (other != kept).any()
    none = selection.clip_cov(jax.random.key(0), covariance + 9, mask, share=0.01)
    assert (none == mask).all()


def test_covariances_and_kl_cov_by_hand():
    logp = jnp.array([[-1.0, -3.0, 99.0]])
    advantages = jnp.array([[2.0, -2.0, 99.0]])
    mask = jnp.array([[True, True, False]])
    covariance = selection.covariances(logp, advantages, mask)
    np.testing.assert_allclose(covariance, [[2.0, 2.0, 0.0]])
    chosen = selection.kl_cov(jnp.array([[0.5, 3.0, 99.0]]), mask, share=0.5)
    np.testing.assert_array_equal(chosen, [[False, True, False]])


@pytest.mark.parametrize("share", [0.2, 0.35, 1.0])
def test_high_entropy_is_a_quantile(share):
    rng = np.random.default_rng(2)
    entropy, mask = rng.exponential(1.0, (3, 9)), rng.random((3, 9)) < 0.7
    threshold = np.quantile(entropy[mask], 1 - share)
    result = selection.high_entropy(jnp.asarray(entropy), jnp.asarray(mask), share=share)
    np.testing.assert_array_equal(result, mask & (entropy >= threshold))


def test_kl_estimators_by_hand():
    logp, ref = jnp.log(0.5), jnp.log(0.25)
    np.testing.assert_allclose(kl.k1(logp, ref), np.log(2))
    np.testing.assert_allclose(kl.k2(logp, ref), np.log(2) ** 2 / 2)
    np.testing.assert_allclose(kl.k3(logp, ref), 0.5 + np.log(2) - 1)
    tiny = kl.k3(jnp.asarray(0.0), jnp.asarray(1e-8))
    np.testing.assert_allclose(tiny, 5e-17, rtol=1e-7)  # e^d - 1 - d would round to 0
    assert jnp.isfinite(kl.k3(jnp.asarray(-1e4), jnp.asarray(0.0)))


def test_controllers_by_hand():
    for entropy, expected in [(0.1, 0.105), (0.2, 0.105), (0.3, 0.095)]:
        coef = controllers.entropy_coefficient(0.1, entropy, target=0.2)
        np.testing.assert_allclose(coef, expected)
    assert controllers.entropy_coefficient(0.001, 9.0, target=0.2) == 0.0
    for kl_value, expected in [(5.5, 1.01), (6.0, 1.02), (60.0, 1.02), (0.0, 0.98)]:
        options = {"target": 5, "horizon": 1000, "samples": 100}
        coef = controllers.kl_coefficient(1.0, kl_value, **options)
        np.testing.assert_allclose(coef, expected, rtol=1e-9)
