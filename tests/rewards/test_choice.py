"""Multiple choice on what models write, and on what they would write to be paid for nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards import choice

OPTIONS = {"A": "3 cm", "B": "5 cm", "C": "A strong acid", "D": "None of the above"}

SAYS_B = [
    "B",
    "(B)",
    "b",
    "(b)",
    "**B**",
    "Ｂ",
    "Ⓑ",
    "B.",
    "B. 5 cm",
    "B) 5 cm",
    "\\text{(B)}",
    "$\\boxed{B}$",
    "\\boxed{\\text{B}}",
    "\\boxed{\\textbf{(B)}}",
    "\\boxed{(B)\\ 5 cm}",
    "\\[\\boxed{B}\\]",
    "<think>A or C, the answer is A</think>\n<answer>B</answer>",
    "<answer> (B) </answer>",
    "The answer is B.",
    "The answer is (B).",
    "The correct answer is **B**.",
    "The correct option is B because A is too small.",
    "the best answer is therefore B",
    "The correct answer is option B",
    "Answer: B",
    "Answer: (B) 5 cm",
    "**Answer:** B",
    "Answer:\n\nB",
    "ANSWER: B",
    "Final Answer: B",
    "I choose B.",
    "I would go with option B.",
    "Option B is correct.",
    "B is the correct answer.",
    "故选：B",
    "故选B.",
    "故选:B。",
    "因此选B",
    "答案：B",
    "答案是B。",
    "答案选 B",
    "正确选项为B",
    "所以正确答案是：B",
    "选项B正确",
    "答え：B",
    "정답: B",
    "Antwort: B",
    "Ответ: B",
    "A is wrong. C is wrong. The answer is B.",
    "The answer is A.\nWait, I forgot the cube.\nThe answer is B.",
    "The answer is B. The answer is not C.",
    "First we see a triangle.\nThen we see A circle.\n\nB",
    "The answer is B\u200b.",
    "<answer>\nThe answer is B\n</answer>",
    "<answer>\\boxed{B}</answer>",
    "<answer>B",
    "<answer>B. x < 5</answer>",
    "Thus, B.",
    "The answer is clearly B.",
    "The correct option: B",
    "Let me pick B",
    "Option A is correct if x > 0, but x < 0.\nThe answer is B",
]
SAYS_NOTHING = [
    "",
    "A B C D",
    "ABCD",
    "A\nB\nC\nD",
    "A. 3 cm\nB. 5 cm\nC. A strong acid\nD. None of the above",
    "Because of the rule, we see that B and so on.",
    "The answer is A or B.",
    "The answer is A/B",
    "The answer is either.",
    "The answer is (A) or maybe (B)",
    "The answer is A (or B)",
    "答案是A或者可能是B",
    "\\boxed{A} \\boxed{B}",
    "The answer is A, the answer is B",
    "The answer is not B.",
    "The answer is Because",
    "Answer: BAD idea",
    "A strong wind blows",
    "I think a lot",
    "\\boxed{Z}",
    "\\boxed{}",
    "The answer is A or B or C or D",
    "Be careful.",
    "<answer>A</answer> <answer>B</answer>",
    "None of the options A, B, C is right",
    "A is correct only when x > 1",
    "The correct answer isn't B",
    "We choose a basis such that A is diagonal",
    "选择合适的A",
    "<think>The answer is B</think>",
]


@pytest.mark.parametrize("response", SAYS_B)
def test_says_b(response):
    assert choice.extract(response) == {"B"}
    assert choice.verify(response, "B") is True
    assert choice.verify(response, "C", options=OPTIONS) is False


@pytest.mark.parametrize("response", SAYS_NOTHING)
def test_is_not_paid(response):
    for letter in "ABCD":
        assert choice.verify(response, letter, letters="ABCD") is False


@pytest.mark.parametrize(
    "response",
    [
        "AC",
        "A, C",
        "A和C",
        "A、C",
        "A and C",
        "C, A",
        "(A)(C)",
        "\\boxed{A,C}",
        "答案：AC",
        "[A, C]",
    ],
)
def test_several_letters_are_a_set(response):
    assert choice.verify(response, "AC") is True
    assert choice.verify(response, '["A", "C"]') is True
    for gold in ("A", "C", "ABC", "AD"):
        assert choice.verify(response, gold) is False


def test_the_text_of_an_option_names_it():
    for response in ("\\boxed{5 cm}", "The answer is 5 cm.", "Answer: 5 cm", "5 cm"):
        assert choice.verify(response, "B", options=OPTIONS) is True
        assert choice.verify(response, "A", options=OPTIONS) is False
        assert choice.verify(response, "B") is False
    assert choice.extract("The answer is A strong acid.", options=OPTIONS) == {"C"}
    assert choice.extract("The answer is A strong acid.") is None
    assert choice.extract("The answer is 5 cm, I think", options=OPTIONS) is None


def test_a_letter_with_another_options_text_is_refused():
    assert choice.extract("Answer: B. 3 cm", options=OPTIONS) is None
    assert choice.extract("Answer: B. 5 cm", options=OPTIONS) == {"B"}
    twice = {"A": "same", "B": "same"}
    assert choice.extract("Answer: same", options=twice) is None
    assert choice.extract("Answer: A. same", options=twice) == {"A"}


def test_letters_outside_the_options_are_none():
    assert choice.extract("Answer: E", options=OPTIONS) is None
    assert choice.extract("Answer: E") == {"E"}


@pytest.mark.parametrize("gold", ["", "?", "Z", "the second", "A or B", "12"])
def test_a_gold_that_names_no_option_masks(gold):
    assert choice.verify("B", gold, options=OPTIONS) is None
    assert choice.reward("B", gold, options=OPTIONS) is None


@pytest.mark.parametrize("gold", ["B", "(B)", "b", " B ", "B. 5 cm", "5 cm", "\\boxed{B}"[7:8]])
def test_gold_in_its_forms(gold):
    assert choice.reward("\\boxed{B}", gold, options=OPTIONS) == 1.0
    assert choice.reward("\\boxed{A}", gold, options=OPTIONS) == 0.0


PIECES = [
    "A",
    "B",
    "(B)",
    "\\boxed{",
    "}",
    "answer",
    " is ",
    ":",
    "\n",
    "答案",
    "选",
    "or",
    ",",
    "**",
    "x",
]


@settings(deadline=None, max_examples=100)
@given(
    st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
)
def test_any_text_is_at_most_one_answer(text):
    paid = [
        gold for gold in ("A", "B", "C", "D", "AB") if choice.verify(text, gold, options=OPTIONS)
    ]
    assert len(paid) <= 1
    chosen = choice.extract(text, options=OPTIONS)
    assert chosen is None or chosen <= set(OPTIONS)


@pytest.mark.parametrize("piece", [*PIECES, " ", "(", "\\text{", "the answer is ", "A,", "_"])
def test_long_input_ends(piece):
    choice.extract(piece * 50_000, options=OPTIONS)
    choice.extract("a" + piece * 50_000 + "a", options=OPTIONS)
