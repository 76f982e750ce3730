"""Gradients: finite differences, and the coefficients that the papers derive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives import PolicyObjective, kl, policy_loss, preference, supervised

SHAPE = (3, 5)
KINDS = {
    "clip": PolicyObjective(clip_high=0.28, dual_clip=1.6, kl="k3", kl_coef=0.3),
    "gspo": PolicyObjective(ratio="sequence", aggregation="sequence_mean", kl="k2", kl_coef=0.1),
    "sapo": PolicyObjective(surrogate="sapo", kl="k3_unbiased", kl_coef=0.5),
    "reinforce": PolicyObjective(
        surrogate="reinforce", aggregation="constant", constant_length=8, kl="k1", kl_coef=0.2
    ),
    "corrected": PolicyObjective(
        correction="icepop", correction_low=0.7, correction_high=1.3, aggregation="prompt_mean"
    ),
}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def make_inputs(seed):
    rng = np.random.default_rng(seed)
    logp = -rng.exponential(1.0, SHAPE)
    return {
        "logp": jnp.asarray(logp),
        "logp_old": jnp.asarray(logp + 0.4 * rng.normal(size=SHAPE)),
        "logp_ref": jnp.asarray(logp + 0.4 * rng.normal(size=SHAPE)),
        "logp_behavior": jnp.asarray(logp + 0.4 * rng.normal(size=SHAPE)),
        "advantages": jnp.asarray(rng.normal(size=3)),
        "mask": jnp.asarray(rng.random(SHAPE) < 0.8),
        "prompt_ids": jnp.array([4, 4, 1]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences(kind):
    inputs = make_inputs(0)
    loss = jax.jit(lambda x: policy_loss(KINDS[kind], **{**inputs, "logp": x})[0])
    gradient = jax.grad(loss)(inputs["logp"])
    step = 1e-6
    for place in np.ndindex(SHAPE):
        nudge = jnp.zeros(SHAPE).at[place].set(step)
        slope = (loss(inputs["logp"] + nudge) - loss(inputs["logp"] - nudge)) / (2 * step)
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-6, atol=1e-9)


def test_sequence_token_has_the_gradient_of_sequence_for_shared_advantages():
    inputs = make_inputs(1)
    gradients = []
    for ratio in ["sequence", "sequence_token"]:
        objective = PolicyObjective(ratio=ratio, aggregation="sequence_mean")
        gradients.append(
            jax.grad(lambda x, o=objective: policy_loss(o, **{**inputs, "logp": x})[0])(
                inputs["logp"]
            )
        )
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-15)


def test_sequence_token_gives_each_token_its_own_advantage():
    log_ratio = np.array([[0.1, -0.3, 0.5]])
    advantages = np.array([[1.0, -2.0, 0.5]])
    gradients = {}
    for ratio in ["sequence", "sequence_token"]:
        objective = PolicyObjective(ratio=ratio, clip_low=None, clip_high=None)
        gradients[ratio] = -3 * jax.grad(
            lambda x, o=objective: policy_loss(
                o,
                logp=x,
                logp_old=np.zeros((1, 3)),
                advantages=advantages,
                mask=np.ones((1, 3), bool),
            )[0]
        )(jnp.asarray(log_ratio))
    mean = np.exp(0.1)
    np.testing.assert_allclose(gradients["sequence_token"], mean * advantages, rtol=1e-12)
    np.testing.assert_allclose(gradients["sequence"], np.full((1, 3), mean * -0.5 / 3), rtol=1e-12)


def coefficients(loss, logp, tokens_per_sequence):
    """What -grad is per token, times the 1/(sequences * length) that the papers leave outside."""
    return -jax.grad(loss)(logp) * logp.shape[0] * tokens_per_sequence


class TestGradientCoefficients:
    """DeepSeekMath's unified view (2402.03300, eq. 5 and table 10), at ratio 1."""

    logp = np.log([[0.5, 0.2], [0.3, 0.9]])
    ref = np.log([[0.4, 0.4], [0.3, 0.1]])
    advantages = np.array([1.5, -0.5])
    mask = np.ones((2, 2), bool)

    def test_sft_is_one(self):
        logp = jnp.asarray(self.logp)
        result = coefficients(lambda x: supervised.token_loss(x, jnp.asarray(self.mask)), logp, 2)
        np.testing.assert_allclose(result, np.ones((2, 2)), rtol=1e-12)

    def test_rejection_sampling_is_the_indicator(self):
        # RFT and online RFT: supervised loss on the correct samples, over all samples' tokens
        correct = jnp.array([[True, True], [False, False]])
        result = coefficients(
            lambda x: supervised.token_loss(x, correct, denominator=4.0),
            jnp.asarray(self.logp),
            2,
        )
        np.testing.assert_allclose(result, correct, rtol=1e-12)

    @pytest.mark.parametrize("surrogate", ["clip", "cispo", "sapo", "reinforce"])
    def test_ppo_is_the_advantage(self, surrogate):
        per_token = jnp.asarray([[1.0, -2.0], [0.5, 3.0]])
        objective = PolicyObjective(surrogate=surrogate, aggregation="sequence_mean")
        result = coefficients(
            lambda x: policy_loss(
                objective, logp=x, logp_old=None, advantages=per_token, mask=self.mask
            )[0],
            jnp.asarray(self.logp),
            2,
        )
        np.testing.assert_allclose(result, per_token, rtol=1e-12)

    @pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3_unbiased"])
    def test_grpo_is_advantage_plus_kl(self, estimator):
        beta, logp, ref = 0.7, self.logp, self.ref
        objective = PolicyObjective(aggregation="sequence_mean", kl=estimator, kl_coef=beta)
        result = coefficients(
            lambda x: policy_loss(
                objective,
                logp=x,
                logp_old=None,
                logp_ref=ref,
                advantages=self.advantages,
                mask=self.mask,
            )[0],
            jnp.asarray(logp),
            2,
        )
        slope = {
            "k1": -np.ones((2, 2)),
            "k2": ref - logp,
            "k3": np.exp(ref - logp) - 1,  # the paper's: A + beta (pi_ref / pi - 1)
            "k3_unbiased": ref - logp,  # (pi_ref/pi - 1) - k3 = log pi_ref/pi
        }[estimator]
        expected = self.advantages[:, None] + beta * slope
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)

    def test_dpo_is_the_wrong_order_probability(self):
        beta = 0.3
        chosen, rejected, ref_chosen, ref_rejected = -1.0, -2.0, -1.5, -1.0
        grads = jax.grad(
            lambda pair: preference.dpo_loss(
                pair[:1],
                pair[1:],
                beta=beta,
                ref_chosen=jnp.array([ref_chosen]),
                ref_rejected=jnp.array([ref_rejected]),
            )[0]
        )(jnp.array([chosen, rejected]))
        margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        wrong = 1 / (1 + np.exp(margin))
        np.testing.assert_allclose(-grads, [beta * wrong, -beta * wrong], rtol=1e-12)


def test_keeping_the_sampling_mask_gives_the_gradient_of_the_truncated_policy():
    """By enumeration: the sampler draws tokens 0, 2 and 3 only, and is paid for each."""
    logits, kept = jnp.array([0.3, 1.5, -0.4, 0.1]), jnp.array([True, False, True, True])
    rewards = jnp.array([1.0, 9.0, -2.0, 0.5])

    def truncated(logits):
        return jax.nn.softmax(jnp.where(kept, logits, -jnp.inf))

    def expected_loss(logits, keeps_mask):
        logp = jax.nn.log_softmax(logits)
        logp = logp - jax.nn.logsumexp(logp, where=kept) if keeps_mask else logp
        losses = [
            policy_loss(
                PolicyObjective(),
                logp=logp[None, None, token],
                logp_old=None,
                advantages=rewards[None, token],
                mask=jnp.ones((1, 1), bool),
            )[0]
            for token in (0, 2, 3)
        ]
        return jnp.sum(jax.lax.stop_gradient(truncated(logits))[kept] * jnp.stack(losses))

    exact = -jax.grad(lambda x: jnp.sum(truncated(x) * rewards))(logits)
    np.testing.assert_allclose(jax.grad(expected_loss)(logits, True), exact, atol=1e-12)
    assert not np.allclose(jax.grad(expected_loss)(logits, False), exact, atol=1e-2)


class TestKlGradients:
    """Expected gradients on a small categorical, by enumeration: what each estimator optimises."""

    logits = np.array([0.3, -1.0, 0.8, 0.1])
    ref_logits = np.array([-0.2, 0.4, 0.5, 0.0])
    old_logits = np.array([0.1, -0.5, 0.3, 0.6])

    def expected_gradient(self, per_token, samples_from):
        """Gradient of sum_x q(x) f(x) with the sampling distribution q held fixed."""
        q = jax.nn.softmax(jnp.asarray(samples_from))
        return jax.grad(lambda logits: (q * per_token(jax.nn.log_softmax(logits))).sum())(
            jnp.asarray(self.logits)
        )

    def exact(self, direction):
        ref = jax.nn.log_softmax(jnp.asarray(self.ref_logits))

        def divergence(logits):
            p = jax.nn.log_softmax(logits)
            return (
                (jnp.exp(p) * (p - ref)).sum()
                if direction == "reverse"
                else (jnp.exp(ref) * (ref - p)).sum()
            )

        return jax.grad(divergence)(jnp.asarray(self.logits))

    @pytest.mark.parametrize(
        ("estimator", "expected"), [(kl.k1, None), (kl.k2, "reverse"), (kl.k3, "forward")]
    )
    def test_on_policy(self, estimator, expected):
        ref = jax.nn.log_softmax(jnp.asarray(self.ref_logits))
        result = self.expected_gradient(lambda logp: estimator(logp, ref), self.logits)
        exact = jnp.zeros(4) if expected is None else self.exact(expected)
        np.testing.assert_allclose(result, exact, atol=1e-12)

    def test_unbiased_k3_is_right_off_policy_too(self):
        ref = jax.nn.log_softmax(jnp.asarray(self.ref_logits))
        old = jax.nn.log_softmax(jnp.asarray(self.old_logits))
        objective = PolicyObjective(surrogate="reinforce", kl="k3_unbiased", kl_coef=1.0)

        def per_token(logp):
            # one sequence per outcome: its weight is the outcome's probability, in the caller
            losses = [
                policy_loss(
                    objective,
                    logp=logp[None, None, x],
                    logp_old=old[None, None, x],
                    logp_ref=ref[None, None, x],
                    advantages=jnp.zeros(1),
                    mask=jnp.ones((1, 1), bool),
                )[0]
                for x in range(4)
            ]
            return jnp.stack(losses)

        result = self.expected_gradient(per_token, self.old_logits)
        np.testing.assert_allclose(result, self.exact("reverse"), atol=1e-12)
