"""Reward-model scores see the part of the response that they should see."""

import pytest

from r1jax.rewards import scores

RESPONSE = "<think>dark thoughts</think><answer> a kind word </answer>"


def length_of_text(pairs):
    return [len(text) for _, text in pairs]


def test_helpfulness_sees_the_summary_and_safety_everything():
    seen = []

    def score(pairs):
        seen.extend(pairs)
        return [1.0] * len(pairs)

    scores.helpfulness(score, ["p"], [RESPONSE])
    scores.safety(score, ["p"], [RESPONSE])
    assert seen == [("p", "a kind word"), ("p", RESPONSE)]


@pytest.mark.parametrize("response", ["", "<think>no end", "<think>a</think> \n", "no tags"])
def test_without_summary_nothing_is_scored(response):
    def never(pairs):
        raise AssertionError(pairs)

    assert scores.helpfulness(never, ["p"], [response]) == [None]
    assert scores.helpfulness(never, ["p"], [response], without_summary=-1.0) == [-1.0]


def test_summaries_keep_their_places():
    responses = ["cut off", "<think>a</think>xyz", "cut", "<think></think>xy"]
    assert scores.helpfulness(length_of_text, list("pqrs"), responses) == [None, 3.0, None, 2.0]


def test_scores_that_are_no_numbers_mask():
    values = [float("nan"), float("inf"), None, 2]
    assert scores.safety(lambda pairs: values, list("pqrs"), list("abcd")) == [None] * 3 + [2.0]


def test_a_scorer_that_loses_texts_is_an_error():
    with pytest.raises(ValueError, match="1 scores for 2 texts"):
        scores.safety(lambda pairs: [1.0], list("pq"), list("ab"))


def test_each_query_goes_to_its_own_model():
    scorers = {"helpful": length_of_text, "safety": lambda pairs: [-1.0] * len(pairs)}
    kinds = ["safety", "helpful", "safety"]
    responses = [RESPONSE, RESPONSE, "x"]
    assert scores.general(scorers, kinds, list("pqr"), responses) == [-1.0, 11.0, -1.0]
    with pytest.raises(ValueError, match="unknown kind"):
        scores.general(scorers, ["rude"], ["p"], ["x"])
