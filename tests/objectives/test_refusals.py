"""What would silently be another loss is refused, in one line that names the argument."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import as_users_call

from r1jax.objectives import advantages, distillation, preference, supervised, value
from r1jax.objectives.policy import PolicyObjective, policy_loss, token_weights


@pytest.fixture(autouse=True)
def _as_users_call():
    with as_users_call():
        yield


B, T = 2, 4
LOGP = jnp.full((B, T), -1.0)
ARRAYS = {
    "logp": LOGP,
    "logp_old": LOGP - 0.1,
    "advantages": jnp.array([1.0, -1.0]),
    "mask": jnp.ones((B, T), bool),
}
WRONG = {
    "logp": jnp.zeros(T),
    "logp_old": jnp.zeros((B, 1)),
    "logp_ref": jnp.zeros((1, T)),
    "logp_behavior": jnp.zeros((B, T + 1)),
    "entropy": jnp.zeros(()),
    "mask": jnp.ones((1, T), bool),
    "segment_ids": jnp.ones((B, 1), int),
    "weights": jnp.ones((1, 1)),
    "advantages": jnp.ones((B, 1)),
    "prompt_ids": jnp.zeros(1, int),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_policy_loss_broadcasts_nothing(name):
    with pytest.raises(ValueError, match=f"{name} has shape"):
        policy_loss(PolicyObjective(), **{**ARRAYS, name: WRONG[name]})


PAIR = jnp.zeros(3)
REFUSED = {
    "rejected has shape": lambda: preference.dpo_loss(PAIR, PAIR[:1], beta=0.1),
    "ref_rejected has shape": lambda: preference.dpo_loss(
        PAIR, PAIR, beta=0.1, ref_chosen=PAIR, ref_rejected=PAIR[:1]
    ),
    "loss='hinge': use one of sigmoid, ipo": lambda: preference.dpo_loss(
        PAIR, PAIR, beta=0.1, loss="hinge"
    ),
    "margin has shape": lambda: preference.bradley_terry_loss(PAIR, PAIR, margin=PAIR[:1]),
    "labels has shape": lambda: preference.binary_loss(PAIR, PAIR[:1], PAIR > 0),
    "mask has shape": lambda: supervised.token_loss(LOGP, jnp.ones((1, T), bool)),
    "log_z has shape": lambda: supervised.token_loss(
        LOGP, ARRAYS["mask"], log_z=jnp.zeros((B, 1)), z_coef=0.1
    ),
    "returns has shape": lambda: value.clipped_value_loss(LOGP, LOGP[:, :1], ARRAYS["mask"]),
    "values has shape": lambda: advantages.gae(
        LOGP, LOGP[:, :1], ARRAYS["mask"], gamma=1.0, lam=1.0
    ),
    "kl has shape": lambda: advantages.token_rewards(
        jnp.ones(B), ARRAYS["mask"], kl=LOGP[:1], kl_coef=0.1
    ),
    "rewards have shape": lambda: advantages.group_normalized(jnp.ones(T)),
    "valid has shape": lambda: advantages.rloo(LOGP, valid=ARRAYS["mask"][:1]),
    "scale='mad': use one of": lambda: advantages.group_normalized(LOGP, scale="mad"),
    "direction='both': use one of": lambda: distillation.divergence(LOGP, LOGP, direction="both"),
    "teacher_logits has shape": lambda: distillation.divergence(LOGP, LOGP[:1]),
    "teacher_hidden has shape": lambda: distillation.distillation_loss(
        jnp.ones((B, T, 3)),
        jnp.ones((3, 5)),
        jnp.ones((1, T, 3)),
        jnp.ones((3, 5)),
        ARRAYS["mask"],
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_other_losses_and_advantages_broadcast_nothing_either(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_verdicts_are_rewards():
    """True and False, or whole numbers, as 1.0 and 0.0: no integer arithmetic on the way."""
    verdicts = np.array([[True, False, False], [True, True, False]])
    for compute in (advantages.group_normalized, advantages.rloo, advantages.max_rl):
        wanted = compute(jnp.asarray(verdicts, jnp.float32))
        np.testing.assert_array_equal(compute(verdicts), wanted)
        np.testing.assert_array_equal(compute(verdicts.astype(int)), wanted)
    steps, ends = np.array([[[1, 0], [1, 1]]]), np.array([[[1, 3], [0, 2]]])
    of_steps = [
        advantages.process_sum(kind(steps), ends, length=4) for kind in (jnp.asarray, jnp.float32)
    ]
    np.testing.assert_array_equal(*of_steps)
    mask = np.ones((1, 3), bool)
    rewards = np.array([[0, 0, 1]])
    for result in zip(
        *(
            advantages.gae(kind(rewards), jnp.zeros((1, 3)), mask, gamma=0.9, lam=0.5)
            for kind in (jnp.asarray, jnp.float32)
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(*result)
    np.testing.assert_allclose(result[0], [[0.81 * 0.25, 0.9 * 0.5, 1]], rtol=1e-6)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "prompt_mean"])
def test_a_step_in_which_nothing_counts_has_loss_0(aggregation):
    """As a denominator that was counted over the whole step may be 0."""
    objective = PolicyObjective(aggregation=aggregation)
    nothing = {**ARRAYS, "mask": jnp.zeros((B, T), bool), "prompt_ids": jnp.arange(B)}
    for denominator in (None, 0, 0.0, jnp.int32(0)):
        assert policy_loss(objective, **nothing, denominator=denominator)[0] == 0
    host = token_weights(objective, np.zeros((B, T), bool), prompt_ids=np.arange(B), denominator=0)
    assert not host.any()
    mask = nothing["mask"]
    assert supervised.token_loss(LOGP, mask, denominator=0) == 0
    assert value.clipped_value_loss(LOGP, LOGP, mask, denominator=0)[0] == 0
    assert preference.dpo_loss(PAIR, PAIR, beta=0.1, mask=PAIR > 0, denominator=0)[0] == 0
