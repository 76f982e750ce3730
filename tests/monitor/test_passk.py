"""pass@k and maj@k against counting every possible draw."""

import itertools

import numpy as np
import pytest

from r1jax.monitor.passk import maj_at_k, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pass_at_k_equals_enumeration_of_all_subsets(n):
    """Every number of correct samples, every k: the share of k-subsets with a correct sample."""
    for correct in range(n + 1):
        row = np.arange(n) < correct
        for k in range(1, n + 1):
            hits = [any(row[list(some)]) for some in itertools.combinations(range(n), k)]
            np.testing.assert_allclose(pass_at_k(row[None], k), np.mean(hits), atol=1e-12)


def test_pass_at_k_is_the_mean_over_prompts():
    correct = np.array([[True, False, False], [False, False, False], [True, True, True]])
    assert pass_at_k(correct, 1) == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert pass_at_k(correct, 2) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_pass_at_k_of_many_samples_stays_exact():
    correct = np.arange(4096)[None] < 1
    assert pass_at_k(correct, 1024) == pytest.approx(0.25, abs=1e-9)


@pytest.mark.parametrize("k", [0, 4])
def test_pass_at_k_refuses_what_the_samples_cannot_tell(k):
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(np.ones((2, 3), bool), k)


@pytest.mark.parametrize(
    ("answers", "right", "wins"),
    [
        (["7", "7", "8"], "7", 1.0),
        (["7", "8", "8"], "7", 0.0),
        (["7", "8"], "7", 1.0),  # a tie: who came first
        (["8", "7"], "7", 0.0),
        ([None, None, "7"], "7", 1.0),  # no answer, no vote
        ([None, None], "7", 0.0),
    ],
)
def test_one_vote(answers, right, wins):
    correct = np.array([[answer == right for answer in answers]])
    assert maj_at_k([answers], correct, len(answers)) == wins


def test_votes_are_over_consecutive_samples_and_a_rest_does_not_vote():
    answers = [["7", "7", "8", "8", "7"], ["9", "9", "7", "7", "7"]]
    correct = np.array(answers) == np.array([["7"], ["9"]])
    assert maj_at_k(answers, correct, 2) == 0.5
    assert maj_at_k(answers, correct, 5) == 0.5
    assert maj_at_k(answers, correct, 1) == np.mean(correct)


@pytest.mark.parametrize("k", [0, 3])
def test_maj_at_k_refuses_what_the_samples_cannot_tell(k):
    with pytest.raises(ValueError, match=f"maj@{k}"):
        maj_at_k([["7", "8"]], np.ones((1, 2), bool), k)
