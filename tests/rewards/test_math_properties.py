"""Pairs made by a grammar: an identity keeps the value, a perturbation changes it. And fuzz."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1jax.rewards import math

SLOW = pytest.mark.slow
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}
MINUTES = int(os.environ.get("R1JAX_FUZZ_EXAMPLES", "2000"))

# An expression is a nested tuple (operator, operands…), a variable name or an integer.
leaves = st.one_of(st.integers(1, 12), st.sampled_from(["x", "y", "a", "n"]))
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "/"]), inner, inner),
        st.tuples(st.just("^"), inner, st.integers(2, 3)),
        st.tuples(st.just("sqrt"), inner),
    ),
    max_leaves=6,
)


def latex(e):
    """One of the ways to write the expression; signs and brackets are always explicit."""
    if not isinstance(e, tuple):
        return str(e)
    op, *args = e
    parts = [latex(arg) for arg in args]
    if op == "/":
        return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    if op == "sqrt":
        return f"\\sqrt{{{parts[0]}}}"
    if op == "^":
        return f"\\left({parts[0]}\\right)^{{{parts[1]}}}"
    sign = {"*": "\\cdot "}.get(op, op)
    return f"\\left({parts[0]}\\right){sign}\\left({parts[1]}\\right)"


def rewrite(e, draw):
    """An expression of the same value, by random identities from the leaves up."""
    if not isinstance(e, tuple):
        return draw(st.sampled_from([e, ("+", e, 0), ("*", e, 1), ("-", ("+", e, 3), 3)]))
    op, *args = e
    if op == "^":
        base = rewrite(args[0], draw)
        product = ("*", base, base) if args[1] == 2 else ("*", base, ("*", base, base))
        return draw(st.sampled_from([(op, base, args[1]), product]))
    args = [rewrite(arg, draw) for arg in args]
    same = [(op, *args)]
    if op in "+*":
        same.append((op, args[1], args[0]))
    if op == "-":
        same.append(("+", args[0], ("*", -1, args[1])))
    if op == "/":
        same.append(("*", args[0], ("/", 1, args[1])))
        same.append(("/", ("*", 2, args[0]), ("*", 2, args[1])))
    if op == "*" and isinstance(args[1], tuple) and args[1][0] == "+":
        same.append(("+", ("*", args[0], args[1][1]), ("*", args[0], args[1][2])))
    return draw(st.sampled_from(same))


def check_equal(data):
    e = data.draw(expressions)
    gold, pred = latex(e), latex(rewrite(e, data.draw))
    verdict = math.verify(pred, gold)
    # x − x in a denominator has no value, and no point where the two could be compared
    assert verdict.correct is True or verdict.reason.startswith("undecided"), (gold, pred, verdict)


def check_unequal(data):
    e = data.draw(expressions)
    off = data.draw(
        st.sampled_from([("+", e, 1), ("-", e, 1), ("+", e, ("/", 1, 1000)), ("+", e, "x")])
    )
    gold, pred = latex(e), latex(rewrite(off, data.draw))
    assert math.verify(pred, gold).correct is not True, (gold, pred)


@settings(max_examples=80, **RELAXED)
@given(data=st.data())
def test_identities_keep_the_verdict(data):
    check_equal(data)


@settings(max_examples=80, **RELAXED)
@given(data=st.data())
def test_perturbations_are_seen(data):
    check_unequal(data)


@SLOW
@settings(max_examples=MINUTES, **RELAXED)
@given(data=st.data())
def test_identities_keep_the_verdict_for_long(data):
    check_equal(data)


@SLOW
@settings(max_examples=MINUTES, **RELAXED)
@given(data=st.data())
def test_perturbations_are_seen_for_long(data):
    check_unequal(data)


PIECES = r"""
    \frac \sqrt \boxed { } ( ) [ ] \{ \} | ^ _ + - * / = < > \le \in \cup \pm , ; : ! ' % $ & \\
    \left \right \text{cm} \text{or} \sin \log \sum_{k=1}^{n} \int_0^1 dx \begin{pmatrix}
    \end{pmatrix} \overline{3} \infty \pi e i x n 0 1 2 10 0.5 1,000 99999999999 \circ \mathbb{R}
    \emptyset <answer> </answer> </think> answer is #### ** 答案是 三分之二 万 元 ½ ² √ × ∞ ° A (B)
    and or \ldots \dot \binom \lim_{x\to0} \vec \pmod \det \lfloor \rceil \over \choose \mathbf{i}
    \% \$ . ... \, \! ~ \displaystyle \operatorname{lcm} km/h 3:45 p.m. \begin{cases}
    \end{cases} 上午 for all
"""
FRAGMENTS = st.sampled_from(PIECES.split())
soups = st.lists(FRAGMENTS, max_size=30).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda glue: glue.join(parts))
)
anything = st.one_of(soups, st.text(max_size=200))


def check_total(response, gold):
    """No exception, a verdict of the three, and no fault of the grader itself."""
    verdict = math.verify(response, gold)
    assert verdict.correct in (True, False, None)
    assert not verdict.reason.startswith("grader"), verdict
    math.lint_gold(gold)


@settings(max_examples=200, **RELAXED)
@given(response=anything, gold=anything)
def test_every_string_has_a_verdict(response, gold):
    check_total(response, gold)


@SLOW
@settings(max_examples=5 * MINUTES, **RELAXED)
@given(response=anything, gold=anything)
def test_every_string_has_a_verdict_for_long(response, gold):
    check_total(response, gold)


@settings(max_examples=200, **RELAXED)
@given(text=anything)
def test_a_parsable_text_equals_itself(text):
    boxed = f"\\boxed{{{text}}}"
    if "####" in text or "boxed" in text:  # a gold in the format of a whole solution
        return
    if math.extract_answer(boxed).text == text.strip() and math.parse(text).nodes:
        assert math.verify(boxed, text).correct is not False


@settings(max_examples=200, **RELAXED)
@given(left=st.integers(-(10**30), 10**30), right=st.integers(-(10**30), 10**30))
def test_integers_compare_exactly(left, right):
    assert math.verify(f"\\boxed{{{left}}}", str(right)).correct is (left == right)
    assert math.verify(f"{left:,}", str(left)).correct is True
    assert math.verify(str(left + 1), f"{left}+0").correct is False


@settings(max_examples=200, **RELAXED)
@given(
    prefix=st.text(alphabet=st.characters(exclude_characters="\\<#"), max_size=200),
    value=st.integers(0, 999),
)
def test_a_final_box_is_found_after_any_prose(prefix, value):
    assert math.extract_answer(f"{prefix} \\boxed{{{value}}}").text == str(value)
