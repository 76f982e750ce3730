"""r1jax against TRL 1.16.0 and verl 0.9.1: losses and gradients in float64.

tests/oracle/test_objectives_peers.py made the numbers. Where the peers mean the same, they must
agree to 1e-9 of the largest gradient; where one deviates, the case says how r1jax reproduces it,
and docs/objectives.md lists it.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives import (
    PolicyObjective,
    advantages,
    policy,
    policy_loss,
    preference,
    presets,
    selection,
)
from r1jax.objectives import value as value_lib

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "objectives_peers.json").read_text()
)
CLIP = PolicyObjective(clip_low=0.2, clip_high=0.28)
SEQUENCE = dataclasses.replace(CLIP, aggregation="sequence_mean")
GSPO = PolicyObjective(ratio="sequence", clip_low=0.03, clip_high=0.04, aggregation="sequence_mean")
SAPO = presets.get("sapo")
ROWS = {"denominator": 4.0}  # TRL divides by all rows, those without counted tokens included


def change(objective, **fields):
    return dataclasses.replace(objective, **fields)


def with_correction(kind):
    return change(CLIP, correction=kind, correction_high=3.0)


CONSTANT = change(CLIP, aggregation="constant", constant_length=7)
TRL = {
    "dapo": (CLIP, {}),
    "bnpo": (CLIP, {}),
    "grpo": (SEQUENCE, ROWS),
    "dr_grpo": (CONSTANT, {}),
    "dapo k3": (change(CLIP, kl="k3", kl_coef=0.3), {}),
    "dapo k3_unbiased": (change(CLIP, kl="k3_unbiased", kl_coef=0.3), {}),
    "dapo two-sided": (change(CLIP, dual_clip=3.0), {}),
    "gspo": (GSPO, ROWS),
    "gspo k3": (change(SEQUENCE, ratio="sequence", kl="k3", kl_coef=0.3), ROWS),
    "cispo": (PolicyObjective(surrogate="cispo", clip_low=None, clip_high=0.5), {}),
    "sapo": (SAPO, ROWS),
    "off-policy mask": (change(CLIP, off_policy_delta=0.1), {}),
    "dapo in two": (CLIP, {}),
    "dapo token_truncate": (with_correction("tis"), {}),
    "dapo token_mask": (with_correction("icepop"), {}),
    "dapo sequence_truncate": (with_correction("sequence_product_tis"), {}),
    "dapo sequence_mask": (with_correction("sequence_product_mask"), {}),
}
VERL = {
    "vanilla": (CLIP, {}),
    "vanilla dual clip": (change(CLIP, dual_clip=3.0), {}),
    "vanilla seq-mean-token-mean": (SEQUENCE, {}),
    "vanilla seq-mean-token-sum": (change(CONSTANT, constant_length=1), {}),
    "vanilla seq-mean-token-sum-norm": (CONSTANT, {}),
    "gspo": (change(GSPO, ratio="sequence_token"), {}),
    "gspo token-mean": (change(GSPO, ratio="sequence_token", aggregation="token_mean"), {}),
    "cispo": (change(CLIP, surrogate="cispo"), {}),
    "sapo": (SAPO, {}),
    "gpg": (PolicyObjective(surrogate="reinforce"), {}),
    "vanilla k1": (change(CLIP, kl="k1", kl_coef=0.3), {}),
    "vanilla k2": (change(CLIP, kl="k2", kl_coef=0.3), {}),
    "vanilla k3": (change(CLIP, kl="k3", kl_coef=0.3), {}),
}
# verl adds 1e-8 to the token counts of sequences; TRL has SAPO's temperatures in float32
VERL_TOLERANCE = dict.fromkeys(["vanilla seq-mean-token-mean", "gspo", "sapo"], 2e-8)
TRL_TOLERANCE = {"sapo": 1e-7}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def read_inputs(case):
    return {name: jnp.asarray(x) for name, x in GOLDEN["cases"][case]["inputs"].items()}


def value_and_gradient(objective, inputs, options):
    def loss(logp):
        return policy_loss(objective, **{**inputs, "logp": logp}, **options)

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(inputs["logp"])
    return value, gradient, policy.mean_stats(stats)


def assert_agrees(value, gradient, expected, tolerance):
    scale = np.abs(expected["gradient"]).max()
    np.testing.assert_allclose(value, expected["loss"], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient, expected["gradient"], rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", GOLDEN["cases"])
@pytest.mark.parametrize("variant", TRL)
def test_trl(case, variant):
    objective, options = TRL[variant]
    expected = GOLDEN["cases"][case]["trl"][variant]
    value, gradient, stats = value_and_gradient(objective, read_inputs(case), options)
    assert_agrees(value, gradient, expected, TRL_TOLERANCE.get(variant, 1e-9))
    if "gspo" not in variant and "two" not in variant and "mask" not in variant:
        # TRL counts sequences with GSPO, and its two-sided clip before its lower bound
        for name in ["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"]:
            if name in expected["metrics"]:
                np.testing.assert_allclose(stats[name], expected["metrics"][name], rtol=1e-6)
        np.testing.assert_allclose(stats["entropy"], expected["metrics"]["entropy"], rtol=1e-6)
    if variant in ("dapo k3", "gspo k3"):
        np.testing.assert_allclose(stats["kl"], expected["metrics"]["kl"], rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_trl_high_entropy(case):
    inputs = read_inputs(case)
    chosen = selection.high_entropy(inputs["entropy"], inputs["mask"], share=0.3)
    inputs["advantages"] = inputs["advantages"][:, None] * chosen.astype("float64")
    value, gradient, _ = value_and_gradient(CLIP, inputs, {})
    assert_agrees(value, gradient, GOLDEN["cases"][case]["trl"]["high entropy"], 1e-9)


@pytest.mark.parametrize("case", GOLDEN["cases"])
@pytest.mark.parametrize("variant", VERL)
def test_verl(case, variant):
    objective, options = VERL[variant]
    if case == "empty row" and objective.aggregation == "constant":
        options = {"denominator": 3.0 * objective.constant_length}  # verl: rows with counted tokens
    expected = GOLDEN["cases"][case]["verl"][variant]
    value, gradient, stats = value_and_gradient(objective, read_inputs(case), options)
    assert_agrees(value, gradient, expected, VERL_TOLERANCE.get(variant, 1e-9))
    if variant == "vanilla":
        share = expected["metrics"]["actor/pg_clipfrac"]
        np.testing.assert_allclose(stats["clip_ratio/region_mean"], share, rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_verl_kl_cov(case):
    inputs = read_inputs(case)
    objective = PolicyObjective(clip_low=None, clip_high=None)
    tokens = {"logp": inputs["logp"], "mask": inputs["mask"]}
    per_token = jnp.broadcast_to(inputs["advantages"][:, None], inputs["mask"].shape)
    covariance = selection.covariances(advantages=per_token, **tokens)
    chosen = selection.kl_cov(covariance, inputs["mask"], share=0.2)
    weights = policy.token_weights(objective, inputs["mask"], dtype="float64")

    def loss(logp):
        penalty = jnp.where(chosen, jnp.abs(logp - inputs["logp_old"]), 0)
        main, _ = policy_loss(objective, **{**inputs, "logp": logp}, weights=weights)
        return main + 0.5 * (weights * penalty).sum()

    value, gradient = jax.value_and_grad(loss)(inputs["logp"])
    assert_agrees(value, gradient, GOLDEN["cases"][case]["verl"]["kl_cov"], 1e-9)


def test_every_variant_is_compared():
    case = GOLDEN["cases"]["near"]
    assert set(case["trl"]) == {*TRL, "high entropy"}
    assert set(case["verl"]) == {*VERL, "kl_cov"}


def test_verl_advantages():
    inputs = {k: jnp.asarray(v) for k, v in GOLDEN["advantages"]["inputs"].items()}
    outputs = {k: np.asarray(v) for k, v in GOLDEN["advantages"]["outputs"].items()}
    rewards, mask = inputs["outcome"].reshape(2, 3), inputs["mask"]
    lengths = mask.sum(axis=1).reshape(2, 3)
    outcome = {
        "grpo": advantages.group_normalized(rewards),
        "grpo, no std": advantages.group_normalized(rewards, scale="none"),
        "rloo": advantages.rloo(rewards),
        "reinforce_plus_plus_baseline": advantages.reinforce_pp_baseline(
            rewards, lengths_PG=lengths
        ),
    }
    for name, result in outcome.items():
        spread = jnp.where(mask, result.reshape(-1, 1), 0)
        np.testing.assert_allclose(spread, outputs[name], rtol=1e-9, atol=1e-9, err_msg=name)
    whitened = advantages.reinforce_pp(inputs["token_rewards"], mask, gamma=0.9)
    np.testing.assert_allclose(whitened, outputs["reinforce_plus_plus"], atol=1e-9)
    result, returns = advantages.gae(
        inputs["token_rewards"], inputs["values"], mask, gamma=0.9, lam=0.8
    )
    np.testing.assert_allclose(advantages.whiten(result, mask), outputs["gae, whitened"], atol=1e-9)
    np.testing.assert_allclose(returns, outputs["gae returns"], atol=1e-9)
    loss, stats = value_lib.clipped_value_loss(
        inputs["values"],
        inputs["returns"],
        mask,
        values_old=inputs["values_old"],
        clip=0.2,
    )
    np.testing.assert_allclose(loss, outputs["value loss"], rtol=1e-9)
    share = stats["vf_clipfrac_sum"] / stats["tokens"]
    np.testing.assert_allclose(share, outputs["value clipfrac"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_trl_dpo(kind):
    golden = GOLDEN["preferences"]
    logp, ref, mask = (jnp.asarray(golden["inputs"][k]) for k in ["logp", "logp_ref", "mask"])

    def scores(values):  # TRL's IPO divides each completion's sum by its length, as the mean does
        return preference.sequence_logp(values, mask, average=kind == "ipo")[:, 0].reshape(2, 3)

    def loss(logp):
        chosen, rejected = scores(logp)
        ref_chosen, ref_rejected = scores(ref)
        options = {"ref_chosen": ref_chosen, "ref_rejected": ref_rejected, "loss": kind}
        return preference.dpo_loss(chosen, rejected, beta=0.3, **options)[0]

    value, gradient = jax.value_and_grad(loss)(logp)
    expected = golden["outputs"][kind]
    expected["gradient"] = np.where(mask, expected["gradient"], 0)
    assert_agrees(value, gradient, expected, 1e-12)


def test_trl_reward_model():
    golden = GOLDEN["preferences"]

    def loss(scores):
        return preference.bradley_terry_loss(scores[:3], scores[3:])[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(golden["inputs"]["scores"]))
    assert_agrees(value, gradient, golden["outputs"]["bradley-terry"], 1e-12)
