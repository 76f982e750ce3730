"""Rewards from weighted parts on the tiny tasks."""

import statistics

import pytest

from r1jax.data.tasks import make_task
from r1jax.rewards.compose import grade

SUM = make_task("running_sum")
ITEM = {"question": "31415926", "answer": "1"}
WEIGHTS = {"accuracy": 1.0, "format": 0.1}

CASES = [
    ("34589406</think><answer>1</answer>", 1.1, True, True),
    ("</think><answer>1</answer>", 1.1, True, False),
    ("</think><answer>2</answer>", 0.1, False, False),
    ("12</think><answer>11</answer>", 0.1, False, True),
    ("</think><answer></answer>", 0.0, False, False),
    ("</think><answer>1", 0.0, False, False),
    ("1", 0.0, False, False),
]


@pytest.mark.parametrize(("text", "reward", "correct", "reasoned"), CASES)
def test_grades(text, reward, correct, reasoned):
    got = grade(text, ITEM, task=SUM, weights=WEIGHTS, opened_by_prompt=True, key=(0,))
    assert got.reward == pytest.approx(reward)
    assert (got.correct, got.reasoned) == (correct, reasoned)
    assert set(got.parts) == set(WEIGHTS)


def test_the_control_is_a_fair_coin_that_knows_nothing_of_the_text():
    def flip(text: str, key: tuple[int, ...]) -> float:
        got = grade(text, ITEM, task=SUM, weights={"random": 1.0}, opened_by_prompt=True, key=key)
        assert got.reward is not None
        return got.reward

    flips = [flip("x", (0, 0, i, 0)) for i in range(4000)]
    assert set(flips) == {0.0, 1.0}
    assert statistics.mean(flips) == pytest.approx(0.5, abs=0.04)  # five standard errors
    assert flips == [flip(CASES[0][0], (0, 0, i, 0)) for i in range(4000)]
    assert flips != [flip("x", (1, 0, i, 0)) for i in range(4000)]
