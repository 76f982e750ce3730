"""Step metrics of a batch small enough to work out by hand, and what has no value."""

import dataclasses
import json
import math

import numpy as np
import pytest

from r1jax.monitor.metrics import evaluation_metrics, finite_or_none, group_spread, rollout_metrics
from r1jax.types import Graded, PromptBatch, Rollouts


def make_graded(**changes):
    """Two prompts with two samples each; the last sample could not be judged."""
    rollouts = Rollouts(
        prompts=PromptBatch(np.arange(2), (np.array([1]),) * 2, ({},) * 2),
        tokens=np.ones((4, 3), np.int32),
        logp=np.log(
            np.array([[0.5, 0.5, 9], [1, 9, 9], [0.25, 0.25, 0.25], [1, 1, 9]], np.float32)
        ),
        lengths=np.array([2, 1, 3, 2], np.int32),
        finished=np.array([True, True, False, True]),
    )
    graded = Graded(
        rollouts=rollouts,
        texts=("",) * 4,
        rewards=np.array([1, 0, 1, 0], np.float32),
        valid=np.array([True, True, True, False]),
        correct=np.array([True, False, True, False]),
        reasoned=np.array([True, False, False, False]),
        answers=("7", "8", "7", None),
        parts={"accuracy": np.array([1, 0, 1, np.nan], np.float32)},
    )
    return dataclasses.replace(graded, **changes)


def test_rollout_metrics_by_hand():
    assert rollout_metrics(make_graded()) == pytest.approx(
        {
            "reward": 2 / 3,
            "reward_std": math.sqrt(0.5) / 2,
            "frac_reward_zero_std": 0.5,
            "completions/mean_length": 2.0,
            "completions/min_length": 1.0,
            "completions/max_length": 3.0,
            "completions/mean_terminated_length": 5 / 3,
            "completions/min_terminated_length": 1.0,
            "completions/max_terminated_length": 2.0,
            "completions/clipped_ratio": 0.25,
            "completions/mean_length_correct": 2.5,
            "completions/mean_length_wrong": 1.5,
            "mean_probability": (2 * 0.5 + 1 + 3 * 0.25 + 2) / 8,
            "reward/masked": 0.25,
            "accuracy": 0.5,
            "accuracy_with_reasoning": 1.0,
            "accuracy_without_reasoning": 1 / 3,
            "reasoning_share": 0.25,
            "pass@2": 1.0,
            "rewards/accuracy/mean": 2 / 3,
            "rewards/accuracy/std": np.std([1, 0, 1]),
        }
    )


def test_the_spread_of_a_group_is_of_its_judged_rewards():
    rewards = np.array([[0.1] * 4, [0.1, 0.2, 0.6, 9], [0.1, 9, 9, 9], [9] * 4], np.float32)
    valid = rewards < 9
    np.testing.assert_allclose(
        group_spread(rewards, valid), [0, np.std([0.1, 0.2, 0.6], ddof=1), 0, 0], rtol=1e-6
    )
    assert (group_spread(rewards, valid) == 0).tolist() == [True, False, True, True]


def test_evaluation_metrics_by_hand():
    assert evaluation_metrics(make_graded(), k=2) == pytest.approx(
        {
            "accuracy": 0.5,
            "accuracy_with_reasoning": 1.0,
            "accuracy_without_reasoning": 1 / 3,
            "reasoning_share": 0.25,
            "mean_length": 2.0,
            "pass_at_k": 1.0,
            "maj_at_k": 1.0,
            "k": 2,
        }
    )


def test_means_over_nothing_are_null_in_json():
    nothing = np.zeros(4, bool)
    metrics = rollout_metrics(make_graded(correct=nothing, reasoned=nothing, valid=nothing))
    written = json.loads(json.dumps(finite_or_none(metrics), allow_nan=False))
    for name in ("reward", "accuracy_with_reasoning", "completions/mean_length_correct"):
        assert written[name] is None
    assert written["accuracy"] == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("-inf")])
def test_what_is_not_finite_is_null(value):
    assert finite_or_none({"x": value, "count": 3, "y": 0.5}) == {"x": None, "count": 3, "y": 0.5}


def test_tasks_are_told_apart_where_a_step_mixes_them():
    graded = make_graded()
    prompts = graded.rollouts.prompts
    names = [name for name in rollout_metrics(graded) if name.startswith("tasks/")]
    assert names == []  # one task has the step's own numbers
    prompts = dataclasses.replace(prompts, items=({"task": "sums"}, {"task": "code"}))
    rollouts = dataclasses.replace(graded.rollouts, prompts=prompts)
    metrics = rollout_metrics(dataclasses.replace(graded, rollouts=rollouts))
    assert {name: value for name, value in metrics.items() if name.startswith("tasks/")} == {
        "tasks/sums/accuracy": 0.5,
        "tasks/sums/reward": 0.5,
        "tasks/sums/mean_length": 1.5,
        "tasks/code/accuracy": 0.5,
        "tasks/code/reward": 1.0,  # the other one could not be judged
        "tasks/code/mean_length": 2.5,
    }
