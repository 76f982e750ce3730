"""Labelled (response, gold) pairs: every one must come out as labelled."""

import json
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from r1jax.rewards import math

DATA = Path(__file__).parent / "data"


def load(name):
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def by_kind(name):
    kinds = defaultdict(list)
    for case in load(name):
        kinds[case["kind"]].append(case)
    return [pytest.param(cases, id=f"{name}-{kind}") for kind, cases in kinds.items()]


FILES = ("math_dev.jsonl", "math_own.jsonl", "math_fresh.jsonl")


@pytest.mark.parametrize("cases", [cases for name in FILES for cases in by_kind(name)])
def test_cases_come_out_as_labelled(cases):
    wrong = []
    for case in cases:
        verdict = math.verify(case["pred"], case["gold"])
        if verdict.correct is not case["equal"]:
            wrong.append((case["gold"][:80], case["pred"][:80], verdict))
    assert not wrong


def test_golds_equal_themselves():
    golds = {case["gold"] for name in FILES for case in load(name)}
    failing = [
        gold for gold in golds if math.verify(f"\\boxed{{{gold}}}", gold).correct is not True
    ]
    assert not failing


STATEMENTS = (
    "The final answer is {}.",
    "Therefore, the value of $x$ is ${}$.",
    "So, $f(3) = {}$.",
    "$$x = {}$$",
    "Answer:\n\n$${}$$",
    "Therefore $x$ must be ${}$.",
    "which simplifies to ${}$.",
    "Solution: ...\n\nAnswer. ${}$",
    "### Answer: {}",
    "Adding up,\n\\[ \\boxed{{{}}} \\]",
    "Thus the required probability is ${}$.",
    "所以 $x={}$。",
    "We try 4 and 9. Neither works.\n\nThe answer is\n$${}.$$",
    "<think>\\boxed{{99}}</think>\n\n**Answer**: ${}$",
    "\\[ x = {} \\]",
    "The answer is **${}$**.",
    "Hence, our answer is $\\boxed{{{}}}$ as claimed.",
    "The solution to the equation is $x = {}$.",
    "Therefore, the answer is ${}$, since the others fail.",
)
STATED = {
    "7": "8",
    "-3": "3",
    r"\frac{3}{8}": r"\frac{8}{3}",
    "(1,2)": "(2,1)",
    r"12\pi": "12",
    "1,234": "1,243",
    "3-4i": "3+4i",
    "[0,1)": "[0,1]",
    "2,3": "2,4",
    r"45^\circ": r"54^\circ",
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_answer_is_found_however_it_is_stated(statement):
    for answer, other in STATED.items():
        response = statement.format(answer)
        assert math.verify(response, answer).correct is True, response
        assert math.verify(response, other).correct is False, response


# Conventions that hold in one direction only: the gold decides what may be left out.
ONE_WAY = {"choice", "percent", "base_n", "boxed", "extraction", "text", "hang", "number"}


def test_bare_answers_compare_the_same_the_other_way_round():
    differing = []
    for case in load("math_dev.jsonl") + load("math_own.jsonl")[::3]:
        if case["form"] != "a" or case["kind"] in ONE_WAY or not case["pred"].strip():
            continue
        back = math.verify(case["gold"], case["pred"]).correct
        if back is not None and back is not case["equal"]:
            differing.append((case["gold"], case["pred"], back))
    assert not differing


def test_threads_agree_with_the_main_thread():
    cases = load("math_dev.jsonl")[::2]
    results = [None] * 3

    def work(slot):
        results[slot] = [math.verify(c["pred"], c["gold"]).correct for c in cases]

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == [c["equal"] for c in cases] for result in results)


@pytest.mark.parametrize(
    ("gold", "flag"),
    [
        ("5", None),
        ("\\frac{1}{", "unparsable"),
        ("", "empty"),
        ("12\\text{ cm}", "unit"),
        ("1, 2", "list"),
        ("1,234,567", "ambiguous"),
        ("B", "choice"),
        ("\\text{blue}", "words"),
        ("\\boxed{7}", None),
        ("9^{9^{9^{9}}}", None),
    ],
)
def test_gold_lint_flags_what_needs_a_look(gold, flag):
    report = math.lint_gold(gold)
    if flag is None:
        assert report.ok
        assert not report.flags
    else:
        assert any(found.startswith(flag) for found in report.flags)


def test_a_failing_gold_masks_and_a_failing_answer_is_wrong():
    assert math.verify("5", "\\frac{1}{").correct is None
    assert math.verify("5", "").correct is None
    assert math.verify("5", "2^{3^{4^{5^{6}}}}").correct is None
    assert math.verify("\\frac{1}{", "5").correct is False
    assert math.verify("2^{3^{4^{5^{6}}}}", "5").correct is False
    assert math.verify("", "5").correct is False
