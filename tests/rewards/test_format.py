"""R1's format, on what models really write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.rewards import format as response_format
from r1jax.rewards.format import Response, r1_format, read

GOOD = {
    "<think>a</think><answer>b</answer>": Response("a", "b"),
    " <think>\na\n</think>\n<answer> b </answer>\n": Response("a", "b"),
    "<think>1 < 2</think><answer>x > y</answer>": Response("1 < 2", "x > y"),
    "<think></think><answer>b</answer>": Response("", "b"),
}
BAD = [
    "",
    "<answer>b</answer>",
    "<think>a</think>",
    "<think>a</think><answer>b",
    "<think>a<answer>b</answer></think>",
    "<answer>b</answer><think>a</think>",
    "<think>a</think>so<answer>b</answer>",
    "x<think>a</think><answer>b</answer>",
    "<think>a</think><answer>b</answer>!",
    "<think>a</think><think>c</think><answer>b</answer>",
    "<think>a</think><answer>b</answer><answer>c</answer>",
    "<think>a</think></think><answer>b</answer>",
    "<THINK>a</THINK><answer>b</answer>",
    "<think>a</think><answer>b</answer >",
]


@pytest.mark.parametrize("text", GOOD)
def test_reads_both_parts(text):
    assert read(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_broken_form_is_none_and_earns_nothing(text):
    assert read(text) is None
    assert r1_format(text) == 0.0


def test_a_prompt_that_opens_the_thinking_completes_the_form():
    assert read("a</think><answer>b</answer>", opened_by_prompt=True) == Response("a", "b")
    assert read("<think>a</think><answer>b</answer>", opened_by_prompt=True) is None


def test_empty_parts_earn_nothing_unless_thoughts_may_be_empty():
    assert r1_format("<think>a</think><answer> </answer>") == 0.0
    empty = "<think> </think><answer>b</answer>"
    assert r1_format(empty) == 0.0
    assert r1_format(empty, empty_thoughts=True) == 1.0


@given(st.lists(st.sampled_from([*response_format.TAGS, "x", " ", "<", "think>"]), max_size=12))
def test_total_and_right_on_any_mix_of_tags(pieces):
    text = "".join(pieces)
    response = read(text)
    if response is not None:
        assert [text.count(tag) for tag in response_format.TAGS] == [1, 1, 1, 1]
        without_parts = text.replace(response.thoughts, "", 1).replace(response.answer, "", 1)
        assert not without_parts.replace("".join(response_format.TAGS), "").strip() or (
            response.thoughts in "".join(response_format.TAGS)
            or response.answer in "".join(response_format.TAGS)
        )
