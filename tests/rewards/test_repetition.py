"""Repetition: shares by hand, loops of any period, linear time on hostile input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards import repetition

TOKENS = st.lists(st.integers(0, 3), max_size=60)


def test_share_by_hand():
    assert repetition.ngram_share([1, 2, 1, 2, 1], 2) == 0.5
    assert repetition.ngram_share([5] * 5, 2) == 0.75
    assert repetition.ngram_share(list(range(50)), 2) == 0.0
    assert repetition.ngram_share([1, 1], 2) == 0.0
    assert repetition.ngram_share([], 3) == 0.0


def test_code_and_formulas_are_no_repetition():
    table = "\n```\n" + "print(0, 0, 0, 0)\n" * 50 + "```\n"
    said = "First we list every case, then we add the four numbers that are left over at the end."
    assert repetition.text_ngram_share(said + table) == 0.0
    assert repetition.text_ngram_share("I think that we should check this again. " * 20) > 0.9
    assert repetition.text_ngram_share("我们再检查一遍这个答案。" * 20) > 0.9


@pytest.mark.parametrize("period", [1, 2, 7, 300])
def test_a_loop_at_the_end_is_found(period):
    loop = list(range(period))
    tokens = [9999, *range(5000, 5100), *(loop * 5)]
    assert repetition.tail_run(tokens) == repetition.TailRun(period, 5.0, 5 * period)


def test_a_loop_cut_short_is_still_a_loop():
    run = repetition.tail_run([7, 8, 9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1])
    assert (run.period, run.length) == (3, 10)


def test_of_two_periods_the_shorter_is_named():
    assert repetition.tail_run([9, *[5] * 12]) == repetition.TailRun(1, 12.0, 12)


def test_a_loop_that_was_left_is_no_tail_run():
    assert repetition.tail_run([1, 2] * 50 + list(range(10, 40))) == repetition.NO_RUN


@settings(deadline=None, max_examples=50)
@given(TOKENS)
def test_tail_run_agrees_with_the_definition(tokens):
    run = repetition.tail_run(tokens)
    best = 0
    for period in range(1, len(tokens)):
        length = period
        while length < len(tokens) and tokens[-length - 1] == tokens[-length - 1 + period]:
            length += 1
        if length >= 3 * period:
            best = max(best, length)
    assert run.length == best


@settings(deadline=None, max_examples=50)
@given(TOKENS, st.integers(1, 5))
def test_share_and_penalty_stay_in_bounds(tokens, n):
    assert 0 <= repetition.ngram_share(tokens, n) < 1
    assert -1 <= repetition.penalty(tokens, n=n) <= 0


@settings(deadline=None, max_examples=50)
@given(TOKENS.filter(lambda tokens: len(tokens) > 4))
def test_saying_it_all_again_raises_the_share(tokens):
    once, twice = repetition.ngram_share(tokens, 3), repetition.ngram_share(tokens * 2, 3)
    assert twice > once


def test_penalty_of_sound_text_loops_and_hidden_loops():
    sound = list(range(1000))
    assert repetition.penalty(sound) == 0.0
    assert repetition.penalty([1] * 100) == -1.0
    assert repetition.penalty([*range(100_000), *([1, 2, 3] * 40)]) == -1.0
    assert -1 < repetition.penalty(sound * 2) < -0.3


def test_settings_that_make_no_sense_are_refused():
    for call in (
        lambda: repetition.ngram_share([1], 0),
        lambda: repetition.tail_run([1], min_copies=1),
        lambda: repetition.penalty([1], free_share=1.0),
    ):
        with pytest.raises(ValueError, match=r"n must|copy|free_share"):
            call()
