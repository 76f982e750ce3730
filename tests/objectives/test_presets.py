"""Presets: complete, valid, and what their papers print."""

import dataclasses
import inspect

import pytest

from r1jax.objectives import advantages, policy, presets

REQUIRED = [
    "r1_zero",
    "r1_stage1",
    "r1_stage2",
    "deepseekmath_outcome",
    "deepseekmath_process",
    "dapo",
    "dr_grpo",
    "rloo",
    "reinforce_pp",
    "lite_ppo",
    "gspo",
    "cispo",
    "scale_rl",
    "vapo",
    "ppo",
    "sapo",
    "deepseek_v32",
    "magistral",
    "kimi",
    "pro_rl",
    "max_rl",
    "trl_1_16",
    "verl_0_9",
    "trl",
    "verl",
    "grpo_paper",
]


@pytest.mark.parametrize("name", [*REQUIRED, *presets.PRESETS])
def test_every_preset_is_an_objective_that_explains_itself(name):
    preset = presets.lookup(name)
    assert isinstance(presets.get(name), policy.PolicyObjective)
    function, options = preset.advantage
    assert set(options) <= set(inspect.signature(getattr(advantages, function)).parameters)
    fields = {field.name for field in dataclasses.fields(policy.PolicyObjective)}
    assert set(preset.assumed) <= fields
    text = presets.describe(name)
    axes = ["ratio", "surrogate", "aggregation", "kl", "correction", "entropy bonus", "advantage"]
    for axis in [*axes, "kl in rewards", "sampling mask"]:
        assert f"\n  {axis} " in text
    for number in preset.numbers:
        assert number in text
    assert all(source for _, source in preset.numbers.values())
    # A clip that nobody printed must not pass for one that somebody did.
    if preset.numbers.get("clip", (0, ""))[0] is None:
        assert "clip_low" in preset.assumed


def test_no_field_is_left_out_of_the_words():
    base = policy.PolicyObjective()
    changes = {
        "ratio": {"ratio": "sequence"},
        "surrogate": {"surrogate": "cispo"},
        "clip_low": {"clip_low": 0.1},
        "clip_high": {"clip_high": 0.3},
        "dual_clip": {"dual_clip": 3.0},
        "aggregation": {"aggregation": "sequence_mean"},
        "constant_length": {"aggregation": "constant", "constant_length": 7},
        "kl": {"kl": "k3"},
        "kl_coef": {"kl": "k3", "kl_coef": 0.1},
        "kl_in_reward": {"kl": "k1", "kl_in_reward": True},
        "correction": {"correction": "tis", "correction_high": 2.0},
        "correction_low": {"correction": "icepop", "correction_low": 0.5},
        "correction_high": {"correction": "icepop", "correction_high": 5.0},
        "off_policy_delta": {"off_policy_delta": 0.5},
        "entropy_coef": {"entropy_coef": 0.01},
        "sapo_tau": {"surrogate": "sapo", "sapo_tau": (2.0, 3.0)},
    }
    assert set(changes) == {field.name for field in dataclasses.fields(base)}
    words = [str(presets.choices(dataclasses.replace(base, **c))) for c in changes.values()]
    assert len({str(presets.choices(base)), *words}) == len(words) + 1


def test_the_advantage_is_said_with_its_numbers_and_whose_they_are():
    text = presets.describe("trl_1_16")
    assert "(r - mean of the group) / (deviation of the group + 0.0001), ddof 1" in text
    assert "advantage eps" not in text
    assert "advantage eps, advantage ddof" in presets.describe("dapo")
    assert "kl in rewards    k1 of the whole response, coefficient 0.03" in presets.describe("rloo")
    assert "sampling mask    kept" in presets.describe("deepseek_v32")


def test_numbers_that_are_often_misquoted():
    assert presets.get("r1_stage1").clip_high == 10.0
    assert presets.lookup("deepseekmath_outcome").numbers["clip"][0] is None
    assert (presets.get("dapo").clip_low, presets.get("dapo").clip_high) == (0.2, 0.28)
    assert presets.get("dapo").aggregation == "token_mean"
    assert presets.get("dapo_paper").aggregation == "prompt_mean"
    assert presets.get("gspo").clip_low == 3e-4
    assert not presets.get("trl_1_16").needs_reference
    assert presets.get("verl_0_9").dual_clip == 3.0


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="dapo"):
        presets.get("dappo")


def test_describe_says_when_a_bound_never_acts():
    assert "below 0 (never), above 11" in presets.describe("r1_stage1")
    assert "below 0.8, above 1.28" in presets.describe("dapo")
