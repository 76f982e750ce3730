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


@pytest.mark.parametrize("cases", by_kind("math_dev.jsonl") + by_kind("math_own.jsonl"))
def test_cases_come_out_as_labelled(cases):
    wrong = []
    for case in cases:
        verdict = math.verify(case["pred"], case["gold"])
        if verdict.correct is not case["equal"]:
            wrong.append((case["gold"][:80], case["pred"][:80], verdict))
    assert not wrong


def test_golds_equal_themselves():
    golds = {case["gold"] for name in ("math_dev.jsonl", "math_own.jsonl") for case in load(name)}
    failing = [
        gold for gold in golds if math.verify(f"\\boxed{{{gold}}}", gold).correct is not True
    ]
    assert not failing


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
