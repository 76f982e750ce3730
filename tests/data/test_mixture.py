"""Several files in one stream: shares, epochs, and what a curriculum passes over."""

import collections
import itertools

import pytest

from r1jax.data import mixture
from r1jax.data.mixture import BLOCK, Curriculum, Mixture
from r1jax.data.sources import Questions, item_at
from r1jax.errors import UserError

ALL_RIGHT = dict.fromkeys(range(3), 1.0)


def questions(name, count):
    items = tuple({"question": f"{name}{i}", "task": name} for i in range(count))
    return Questions(items, tuple(f"{name}:{i}" for i in range(count)))


def stream(mixed, count, *, first=0, seed=3):
    return [mixed.item(mixed.number(seed=seed, place=p)) for p in range(first, first + count)]


def test_one_file_is_its_own_stream():
    alone = questions("a", 7)
    expected = [item_at(alone, seed=3, split="train", index=i) for i in range(30)]
    assert stream(Mixture((alone,)), 30) == expected


def test_every_block_has_each_file_by_its_weight_and_every_file_its_epochs():
    mixed = Mixture((questions("a", 5), questions("b", 700), questions("c", 1)), (5.0, 2.5, 0.01))
    items = stream(mixed, 3 * BLOCK)
    for start in range(0, 3 * BLOCK, BLOCK):
        tasks = collections.Counter(item["task"] for item in items[start : start + BLOCK])
        assert tasks["a"] == pytest.approx(BLOCK * 5 / 7.51, abs=3)
        assert tasks["b"] == pytest.approx(BLOCK * 2.5 / 7.51, abs=3)
        assert tasks["c"] >= 1
    for name, count in [("a", 5), ("b", 700)]:
        own = [item["question"] for item in items if item["task"] == name]
        for epoch in range(len(own) // count):
            assert len(set(own[epoch * count : (epoch + 1) * count])) == count
    # A place is the same wherever reading begins, another seed gives another order.
    assert stream(mixed, 40, first=BLOCK - 20) == items[BLOCK - 20 : BLOCK + 20]
    assert stream(mixed, 40, seed=4) != items[:40]


@pytest.mark.parametrize(
    "weights", [(1.0,), (1.0, 1.0), (1.0,) * 3, (0.001, 5.0, 2.3), (1e-9, 1e9)]
)
def test_shares_fill_a_block(weights):
    counts = mixture.shares(weights)
    assert sum(counts) == BLOCK
    assert min(counts) >= 1


def test_a_question_that_is_answered_well_is_retired():
    mixed = Mixture((questions("a", 10),))
    rates = {0: 0.9, 1: 0.89, 2: 1.0}
    places = mixture.places(mixed, Curriculum("retire"), rates, seed=3, first=0)
    chosen = [mixed.number(seed=3, place=p) for p in itertools.islice(places, 80)]
    assert set(chosen) == set(range(10)) - {0, 2}
    assert collections.Counter(chosen)[1] == 10


def test_priority_draws_in_proportion_to_what_is_missed():
    mixed = Mixture((questions("a", 4),))
    rates = {0: 1.0, 1: 0.75, 2: 0.5}  # the last was never sampled
    places = mixture.places(mixed, Curriculum("priority"), rates, seed=3, first=0)
    chosen = collections.Counter(
        mixed.number(seed=3, place=p) for p in itertools.islice(places, 3500)
    )
    assert chosen[0] == 0
    assert chosen[1] / chosen[3] == pytest.approx(0.25, abs=0.03)
    assert chosen[2] / chosen[3] == pytest.approx(0.5, abs=0.04)


def test_a_place_is_passed_over_or_not_wherever_reading_begins():
    mixed = Mixture((questions("a", 50), questions("b", 5)), (1.0, 2.0))
    rates = {number: (number % 10) / 10 for number in range(55)}
    curriculum = Curriculum("priority")
    whole = list(itertools.islice(mixture.places(mixed, curriculum, rates, seed=1, first=0), 300))
    later = mixture.places(mixed, curriculum, rates, seed=1, first=whole[100] + 1)
    assert list(itertools.islice(later, 199)) == whole[101:]


def test_the_end_of_all_questions_is_said():
    mixed = Mixture((questions("a", 3),))
    with pytest.raises(UserError, match="no question is left, all 3 are answered too well"):
        next(
            mixture.places(
                mixed, Curriculum("retire"), dict.fromkeys(range(3), 1.0), seed=0, first=0
            )
        )


def test_without_a_curriculum_nothing_is_passed_over():
    mixed = Mixture((questions("a", 3),))
    places = mixture.places(mixed, Curriculum(), ALL_RIGHT, seed=0, first=5)
    assert list(itertools.islice(places, 4)) == [5, 6, 7, 8]
