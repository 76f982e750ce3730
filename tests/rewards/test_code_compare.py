"""Comparison of outputs and values, encoding of results, taking asserts apart, extraction."""

import json
import math
import string
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple

import hypothesis
import pytest
from hypothesis import strategies as st

from r1jax.rewards.code import answers, last_block, steps
from r1jax.rewards.code.compare import difference_of_outputs, equal_values
from r1jax.rewards.code.inside import answering, values


@pytest.mark.parametrize(
    ("got", "expected", "tolerance", "same"),
    [
        ("6", "6\n", None, True),
        ("6  \r\n\n\n", "6", None, True),
        ("1\n2", "1\n2\n3", None, False),
        ("1\n2\n3", "1\n2", None, False),
        ("\n6", "6", None, False),
        (" 6", "6", None, False),
        ("1  2", "1 2", None, False),
        ("1.0", "1", None, False),
        ("YES", "Yes", None, False),
        ("", "", None, True),
        ("", "6", None, False),
        ("1.0", "1", 1e-6, True),
        ("0.3333333", "0.333333333333", 1e-6, True),
        ("0.333", "0.333333333333", 1e-6, False),
        ("1000001.0", "1000000.0", 1e-6, True),
        ("nan", "0.5", 1e-6, False),
        ("nan", "nan", 1e-6, True),
        ("inf", "1e308", 1e-6, False),
        ("1e9999", "1.0", 1e-6, False),
        ("50000000000000000", "50000000000000001", 1e-6, False),
        ("5e16", "50000000000000001", 1e-6, False),
        ("007", "7", 1e-6, True),
        ("1_0", "10", 1e-6, False),
        ("0x10", "16", 1e-6, False),
        ("١", "1", 1e-6, False),
        ("yes 1.0000001", "yes 1.0", 1e-6, True),
        ("no 1.0000001", "yes 1.0", 1e-6, False),
        ("9" * 5000, "1" * 5000, 1e-6, False),
    ],
)
def test_outputs(got, expected, tolerance, same):
    assert (difference_of_outputs(got, expected, tolerance) is None) == same


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        (6, 6, True),
        (6.0, 6, True),
        (2.0**60, 2**60 + 1, False),
        (6, 6.0, True),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        ("6", 6, False),
        (None, None, True),
        (None, 0, False),
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (math.nan, 0.5, False),
        (math.nan, math.nan, False),
        (math.inf, 1e308, False),
        ((1, 2), [1, 2], True),
        ([1, 2], [1, 2, 3], False),
        ({1, 2}, [1, 2], False),
        ("ab", ["a", "b"], False),
        ({1: 2}, {"1": 2}, True),
        ({"1": 2, 1: 2}, {"1": 2}, False),
        ({True: 2}, {"true": 2}, True),
        ({None: 2}, {"null": 2}, True),
        ({1.5: 2}, {"1.5": 2}, True),
        ({(1, 2): 3}, {"(1, 2)": 3}, False),
        ({"a": [1, {"b": (2.0,)}]}, {"a": [1, {"b": [2]}]}, True),
        ([[1], [True]], [[1], [1]], False),
    ],
)
def test_values(got, expected, same):
    assert equal_values(got, expected) == same


# No database: the checkout may not be ours to write to.
SETTINGS = hypothesis.settings(deadline=None, database=None)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=20,
)


@hypothesis.given(plain)
@SETTINGS
def test_encoding_round_trip(value):
    decoded = answers.decode(values.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


@hypothesis.given(st.text() | st.recursive(st.text() | st.integers(), st.lists).map(json.dumps))
@SETTINGS
def test_decoding_is_total(text):
    try:
        answers.decode(text)
    except ValueError:
        return


class AlwaysEqual(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    "value",
    [
        AlwaysEqual(0),
        object(),
        deque([1]),
        range(3),
        iter([1]),
        UserDict(),
        int,
        namedtuple("P", "x")(1),
    ],
)
def test_other_types_are_refused(value):
    with pytest.raises(values.NotPlain):
        values.encode(value)


@pytest.mark.parametrize("value", [Counter("aab"), OrderedDict(a=1), defaultdict(int, a=1)])
def test_library_dicts_become_dicts(value):
    decoded = answers.decode(values.encode(value))
    assert type(decoded) is dict
    assert decoded == dict(value)


def test_depth_is_bounded_on_both_sides():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(values.NotPlain):
        values.encode(deep)
    for text in ("[" * 100_000, '["list",[' * 300 + "1" + "]]" * 300):
        with pytest.raises(ValueError, match=r"not an encoded value|Expecting"):
            answers.decode(text)
    while deep:  # a deep object must be taken down step by step
        deep = deep[0]


def judge(code, program):
    """The asserts that hold, by the same steps as in the sandbox."""
    plan = steps.plan_asserts(code)
    namespace = {}
    exec(program, namespace)
    lines = answering.answer({"nonce": "n", "steps": plan.steps}, namespace).decode().split("\n")
    found = [answers.decode(line) for line in lines[1:]]
    return [check(answer) for check, answer in zip(plan.checks, found, strict=True)]


DOUBLE = "def f(n): return 2 * n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("assert f(3) == 6", [True]),
        ("assert 6 == f(3), 'message'", [True]),
        ("assert f(3) == 7", [False]),
        ("assert f(3) != 6", [False]),
        ("assert f(3) == 6 and f(4) == 9", [True, False]),
        ("assert f(3) < 7\nassert 7 < f(3)", [True, False]),
        ("assert f(3) in (5, 6)\nassert f(3) not in [6]", [True, False]),
        ("assert f(1.05) - 2.1 < 1e-9\nassert abs(f(1.05) - 2.1) < 1e-9", [True, True]),
        ("import math\nassert math.isclose(f(1.05), 2.1, rel_tol=1e-9)", [True]),
        ("assert set(f([1, 2])) == set([2, 1])", [True]),
        ("assert f((1,)) == [1, 1]", [False]),
        ("assert f(0) is None", [False]),
        ("assert f(1)\nassert not f(0)\nassert f(0)", [True, True, False]),
        ("assert f(f(1)) == f(2)", [True]),
        ("a = [1]\na.append(f(1))\nassert a == [1, 2]", [True]),
        ("def check(g):\n    assert g(1) == 2\n    assert g(2) == 5\ncheck(f)", [True, False]),
        ("for n in range(3):\n    pass\nassert f(n) == 4", [True]),
        ("assert f('a') < 3", [False]),
        ("assert f(float('inf')) == float('inf')", [True]),
    ],
)
def test_asserts(code, expected):
    assert judge(code, DOUBLE) == expected


@pytest.mark.parametrize(
    "code",
    [
        "assert f(3) == 61234",
        "assert 61234 == f(3)",
        "assert abs(f(3) - 61234) < 1e-6",
        "assert math.isclose(f(3), 61234)",
        "assert set(f(3)) == set([61234])",
        "assert f(3) in [61234] and f(3) != 61234",
        "def check(c):\n    assert c(3) == 61234\ncheck(f)",
    ],
)
def test_expected_values_stay_outside(code):
    assert "61234" not in repr(steps.plan_asserts(code).steps)


def test_an_object_that_equals_everything_gains_nothing():
    program = "class E:\n    def __eq__(self, other): return True\ndef f(n): return E()"
    (answer,) = [
        answers.decode(line)
        for line in answering.answer(
            {"nonce": "n", "steps": steps.plan_asserts("assert f(3) == 6").steps},
            answering.load(program, "attack"),
        )
        .decode()
        .split("\n")[1:]
    ]
    assert isinstance(answer, answers.Refused)


FENCE = "```"


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("no code", None),
        (f"{FENCE}python\nA\n{FENCE}", "A\n"),
        (f"{FENCE}python\nA\n{FENCE}\n{FENCE}py\nB\n{FENCE}", "B\n"),
        (f"{FENCE}\nA\n{FENCE}", "A\n"),
        (f"{FENCE}python\nA\n{FENCE}\nIt prints\n{FENCE}\n6\n{FENCE}", "A\n"),
        (f"{FENCE}python\nA\n{FENCE}\n{FENCE}bash\nB\n{FENCE}", "A\n"),
        (f"{FENCE}python\nA\n{FENCE}\n{FENCE}python\ncut off", "A\n"),
        (f"{FENCE}python\ncut off", None),
        (f"{FENCE}Python\nA\n{FENCE}", "A\n"),
        (f"~~~python\n{FENCE}\nA\n~~~", f"{FENCE}\nA\n"),
        (f"````python\n{FENCE}\nA\n````", f"{FENCE}\nA\n"),
        (f"  {FENCE}python\nA\n  {FENCE}", "A\n"),
        (f"<think>\n{FENCE}python\nA\n{FENCE}\n</think>\nnothing", None),
        (f"<think>\n{FENCE}python\nA\n</think>\n{FENCE}python\nB\n{FENCE}", "B\n"),
        (f"{FENCE}cpp\nA\n{FENCE}", None),
    ],
)
def test_last_block(response, program):
    assert last_block(response) == program


@hypothesis.given(st.text(alphabet=string.ascii_letters + "`~\n </>", max_size=300))
@SETTINGS
def test_extraction_is_total(text):
    block = last_block(text)
    assert block is None or block in text
