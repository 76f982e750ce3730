"""Logic puzzles: one solution, the same for ever, and no pay for anything but the solution."""

import itertools
import json
import random
import sys
import types
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards import logic
from r1jax.rewards.logic import arithmetic, ciphers, code_io, gym, knights, programs, zebra
from r1jax.rewards.logic.answer import final_answer

NAMES = sorted(logic.PUZZLES)
ITEMS = {name: [logic.make(name, seed=3, index=i) for i in range(5)] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_right_in_every_wrapping_and_others_are_wrong(name):
    for item, other in itertools.pairwise(ITEMS[name]):
        answer = item["answer"]
        assert logic.score(answer, item) == 1.0
        assert logic.score(f"<think>hm, {other['answer']}</think>\n{answer}\n", item) == 1.0
        assert logic.score(f"<think>hm</think><answer>{answer}</answer>", item) == 1.0
        assert logic.score(f"So it is \\boxed{{{answer}}}.", item) == 1.0
        assert logic.score(other["answer"], item) == 0.0
        assert logic.score("", item) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_within_other_text_earns_nothing(name):
    for item, other in itertools.pairwise(ITEMS[name]):
        for text in (
            f"{other['answer']} {item['answer']}",
            f"{item['answer']}\n{other['answer']}",
            f"maybe {item['answer']} or not",
            f"<think>{item['answer']}</think>",
            f"\\boxed{{{item['answer']}}} \\boxed{{{other['answer']}}}",
        ):
            assert logic.score(text, item) == 0.0, text


@pytest.mark.parametrize("name", NAMES)
def test_items_are_json_and_the_same_for_ever(name):
    again = [logic.make(name, seed=3, index=i) for i in reversed(range(5))][::-1]
    assert again == ITEMS[name]
    assert json.loads(json.dumps(ITEMS[name])) == ITEMS[name]
    assert len({item["question"] for item in ITEMS[name]}) == 5
    assert logic.make(name, seed=4, index=0)["question"] != ITEMS[name][0]["question"]


SHREDS = [
    "1",
    "23",
    "-",
    "+",
    "*",
    "/",
    "(",
    ")",
    "[",
    "]",
    ",",
    ":",
    "=",
    " ",
    "\n",
    "knight",
    "is a",
    "Ada",
    "house",
    "red",
    "\\boxed{",
    "}",
    "<answer>",
    "</answer>",
    "</think>",
    "**",
    "²",
    "٣",
]


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(st.text(max_size=80), st.lists(st.sampled_from(SHREDS), max_size=30).map("".join)),
    st.sampled_from(NAMES),
)
def test_any_string_has_a_score(text, name):
    assert logic.score(text, ITEMS[name][0]) in (0.0, 1.0)


@pytest.mark.parametrize("shred", [*SHREDS, "9**", "1,", "(1+", "not ", "a" * 100])
def test_long_strings_have_one_too(shred):
    for name in NAMES:
        for count in (1900 // len(shred), 100_000):
            assert logic.score(shred * count, ITEMS[name][0]) == 0.0


def test_an_unknown_puzzle_is_named():
    with pytest.raises(ValueError, match="no such puzzle: 'chess'"):
        logic.make("chess", seed=0, index=0)


def test_final_answer_takes_the_last_statement_after_the_thoughts():
    assert final_answer("<think>\\boxed{1}</think> \\boxed{2} \\boxed{{3}}") == "{3}"
    assert final_answer("<answer>1</answer><answer>2") == "2"
    assert final_answer("\\boxed{1") == ""
    assert final_answer("１ \u200b") == "1"
    assert final_answer("x" * 2001) is None


GAME = {"numbers": [3, 3, 8, 8], "target": 24, "puzzle": "24"}


@pytest.mark.parametrize(
    "text",
    [
        "8/(3-8/3)",
        "8 ÷ (3 − 8 ÷ 3)",
        "$8 \\div (3 - 8 \\div 3)$",
        "(8/(3-(8/3))) = 24",
        "[8/(3-8/3)]",
        "-8/(8/3-3)",
    ],
)
def test_exact_fractions_in_the_game_of_24(text):
    assert logic.score(text, GAME) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "24",
        "3*8",
        "3*8+3-3",
        "8/(3-8/3) = 25",
        "24 = 8/(3-8/3)",
        "8/(3-8/3)+0",
        "33-8-8",
        "3**3-8+8",
        "(3-3)/(8-8)",
        "--8/(3-8/3)",
        "3*-8/-8*3*8/3",
        "8/(3-8/3)#",
        "__import__('os')",
        "9**9**9",
        "3!*8/8*3",
        "8/(3-2.667)",
        "8(3)(8)(3)",
        "(" * 99 + "1" + ")" * 99,
    ],
)
def test_other_expressions_are_refused(text):
    assert logic.score(text, GAME) == 0.0


def test_the_solver_of_24_agrees_with_the_checker():
    assert arithmetic.solve([1, 1, 1, 1], 24) is None
    text = arithmetic.solve([3, 3, 8, 8], 24)
    assert text is not None
    assert arithmetic.evaluate(text) == (Fraction(24), [8, 3, 8, 3])


def test_caesar_by_hand_and_back():
    assert ciphers.shift_letters("XYZ ABC", [3]) == "ABC DEF"
    assert ciphers.shift_letters("ATTACK AT DAWN", [11, 4, 12, 14, 13]) == "LXFOPV EF RNHR"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_a_cracked_cipher_has_one_reading(index):
    item = logic.make("caesar", seed=1, index=index)
    if item["kind"] == "crack":
        secret = item["question"].split(": ", 1)[1].split("\n")[0]
        known = set(ciphers.WORDS)
        readings = [ciphers.shift_letters(secret, [shift]) for shift in range(26)]
        assert [r for r in readings if known.issuperset(r.lower().split())] == [item["answer"]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_knights_have_one_solution(index):
    item = logic.make("knights_and_knaves", seed=1, index=index)
    count = len(item["roles"])
    solutions = [
        knights_
        for knights_ in itertools.product([False, True], repeat=count)
        if all(
            knights.is_true(said, knights_) is knights_[i]
            for i, said in enumerate(item["statements"])
        )
    ]
    roles = [["knave", "knight"][is_knight] for is_knight in solutions[0]]
    assert len(solutions) == 1
    assert roles == list(item["roles"].values())


KNIGHTS = {"puzzle": "knights_and_knaves", "roles": {"Ada": "knight", "Ben": "knave"}}


@pytest.mark.parametrize(
    "text",
    [
        "Ada: knight, Ben: knave",
        "Ben: knave; Ada: knight",
        "Ada is a knight and Ben is a knave.",
        "**Ada**: knight\n**Ben**: knave",
        "- Ada: knight\n- Ben: knave",
        "Ada = KNIGHT, Ben = knave",
    ],
)
def test_roles_in_several_forms(text):
    assert logic.score(text, KNIGHTS) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Ada: knight",
        "Ada: knight, Ben: knight",
        "Ada: knight, Ben: knave, Ben: knight",
        "Ada: knave, Ada: knight, Ben: knave",
        "Ada: knight, Ben: knave, Cy: knave",
        "Ada: knight, Ben: knave or knight",
        "Ada is not a knight, Ben is a knave",
        "Ada: knight/knave, Ben: knave",
    ],
)
def test_roles_that_are_missing_wrong_or_double(text):
    assert logic.score(text, KNIGHTS) == 0.0


@pytest.mark.parametrize("index", range(6))
def test_zebra_clues_leave_one_solution_and_none_to_spare(index):
    """Against brute force over all arrangements, which knows nothing of the solver."""
    item = logic.make("zebra", seed=5, index=index, houses=3, categories=3)
    columns = [sorted(column) for column in zip(*item["rows"], strict=True)]

    def count(clues):
        found = 0
        for orders in itertools.product(*(itertools.permutations(range(3)) for _ in columns)):
            at = {
                v: h
                for c, o in zip(columns, orders, strict=True)
                for v, h in zip(c, o, strict=True)
            }
            found += all(
                zebra._RELATIONS[name](at[a], b if name in ("at", "not_at") else at[b])
                for name, a, b in clues
            )
        return found

    assert count(item["clues"]) == 1
    for clue in item["clues"]:
        assert count([other for other in item["clues"] if other != clue]) > 1


def test_zebra_of_five_by_five():
    item = logic.make("zebra", seed=0, index=0, houses=5, categories=5)
    assert logic.score(item["answer"], item) == 1.0
    assert len(item["rows"]) == 5


def test_zebra_wants_every_house_once():
    item = {"puzzle": "zebra", "rows": [["red", "cat"], ["blue", "dog"]]}
    assert logic.score("House 2: dog, blue\n1) Red, Cat", item) == 1.0
    for text in (
        "1: red, cat",
        "1: red, cat\n2: red, cat",
        "1: red, cat\n2: blue, dog\n2: blue, cat",
        "1: red, cat\n2: blue, cat\n2: blue, dog",
        "1: red, cat\n2: blue, dog, cat",
        "1: red, cat\n2: blue, dog\n3: blue, dog",
        "1: red, cat, red\n2: blue, dog",
        "1: red cat\n2: blue dog",
    ):
        assert logic.score(text, item) == 0.0, text


def test_the_interpreter_by_hand():
    program = [["repeat", 2, [["rotate", 1], ["append_count", 0]]], ["if_longer", 4, [["sums", 0]]]]
    # [5,1,2] -> [1,2,5,3] -> [2,5,3,1,4] -> sums
    assert programs.run(program, [5, 1, 2]) == [2, 7, 10, 11, 15]
    assert programs.run([["drop", 2], ["rotate", 1], ["differences", 0]], [1]) == []


def test_programs_cannot_leave_their_bounds():
    for program in (
        [["repeat", 10**9, [["add", 1]]]],
        [["repeat", 9, [["square_first", 0]]]],
        [["repeat", 500, [["append_sum", 0]]]],
    ):
        with pytest.raises(programs.TooMuchError):
            programs.run(program, [99, 99])


def test_any_input_that_gives_the_output_is_right():
    item = {"puzzle": "predict_input", "kind": "input", "program": [["sort", 0]], "output": [1, 2]}
    assert logic.score("[2, 1]", item) == logic.score("[1,2]", item) == 1.0
    for text in (
        "[1]",
        "[1, 2, 100]",
        "1, 2",
        "[1 2]",
        "[]",
        "[[1, 2]]",
        "[1, 2] or [2, 1]",
        "[1e0, 2]",
    ):
        assert logic.score(text, item) == 0.0, text


def test_inputs_beyond_the_stated_limits_are_wrong():
    item = {"puzzle": "predict_input", "kind": "input", "program": [["modulo", 5]], "output": [0]}
    assert logic.score("[95]", item) == logic.score("[-95]", item) == 1.0
    assert logic.score("[100]", item) == logic.score("[-100]", item) == 0.0
    item = {**item, "program": [["sums", 0], ["drop", 8]]}
    assert logic.score("[0, 0, 0, 0, 0, 0, 0, 0, 0]", item) == 0.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-99, 99), min_size=1, max_size=8), st.integers(0, 1000))
def test_programs_end_within_bounds(numbers, seed):
    program = programs.draw(random.Random(seed), lines=4)
    try:
        output = programs.run(program, numbers)
    except programs.TooMuchError:
        return
    assert len(output) <= programs.MAX_ITEMS
    assert code_io.read_list(str(output)) == output or max(map(abs, output)) >= 10**13


def fake_gym(entries):
    module = types.ModuleType("reasoning_gym")
    module.create_dataset = lambda name, size, seed: entries[name][:size]  # pyright: ignore
    return module


def test_gym_items_are_judged_by_our_checkers(monkeypatch):
    entries = {
        "countdown": [
            {"question": "q", "answer": "8*3", "metadata": {"numbers": [3, 8], "target": 24}}
        ],
        "knights_knaves": [
            {"question": "q", "answer": "Zoey is a saint, and Ann is a sinner.", "metadata": {}}
        ],
        "caesar_cipher": [{"question": "q", "answer": "A WORD", "metadata": {}}],
        "zebra_puzzles": [{"question": "q", "answer": "carol", "metadata": {}}],
        "gcd": [{"question": "q", "answer": "12", "metadata": {}}],
    }
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake_gym(entries))
    items = {name: next(gym.items(name, size=1, seed=0)) for name in entries}
    for name, item in items.items():
        assert logic.score(item["answer"], item) == 1.0, name
        for text in ("", f"perhaps {item['answer']} or else", "12 12"):
            assert logic.score(text, item) == 0.0, (name, text)
    assert logic.score("3*8", items["countdown"]) == 1.0
    assert logic.score("Ann: sinner, Zoey: saint", items["knights_knaves"]) == 1.0


def test_gym_without_a_checker_or_with_a_strange_answer_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="no checker for 'sudoku'"):
        next(gym.items("sudoku", size=1, seed=0))
    strange = {"gcd": [{"question": "q", "answer": "a lot", "metadata": {}}]}
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake_gym(strange))
    with pytest.raises(ValueError, match="no integer"):
        next(gym.items("gcd", size=1, seed=0))
