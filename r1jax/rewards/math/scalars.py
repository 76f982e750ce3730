"""Equality of two scalar expressions: identical, then exact, then modulo a prime, then at points
with rising precision.

There is no symbolic simplification. A simplifier's running time has no bound that can be stated
beforehand, so a process that may not be killed cannot call it; and it decides less than evaluation
does: two different expressions of this grammar agree at several generic points to 30 digits, and
once more to 200, only by a coincidence that nobody can steer, because every variable's value is
hashed from its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction

from r1jax.rewards.math.exact import evaluate_exact
from r1jax.rewards.math.fingerprint import fingerprint
from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.nodes import (
    Bound,
    Call,
    Node,
    Num,
    TooCostly,
    Undefined,
    free_symbols,
    walk,
)
from r1jax.rewards.math.numeric import INEXACT_DPS, Evaluator, Mode, Value, context

DPS = 50
CONFIRM_DPS = 220
POINTS = 12
ENOUGH = 4
_COUNTS = frozenset("nmkNMK")  # integers by custom, where they are rounded
# Where variables are taken from: positive, and in several ranges so that ln(x − 5) or √(1 − x)
# have real points.
_RANGES = (
    (1, 3),
    (0.2, 1),
    (3, 12),
    (1, 5),
    (12, 60),
    (0.1, 2),
    (2, 4),
    (0.5, 1),
    (5, 9),
    (60, 400),
    (0.01, 0.3),
    (1, 20),
)
# A decimal with fewer significant digits is only ever equal to exactly itself.
MIN_PRINTED_DIGITS = 12


def scalars_equal(left: Node, right: Node, budget: Budget) -> bool:
    """Whether the two denote one value, or one function of their variables. Raises if that cannot
    be decided.
    """
    if left == right:
        return True
    values = [_exact_or_none(node, budget) for node in (left, right)]
    if values[0] is not None and values[1] is not None:
        return values[0] == values[1] or _printed_equal(left, right, budget)
    verdict = _by_fingerprint(left, right, budget)
    if verdict is not None:
        return verdict or _printed_equal(left, right, budget)
    return _numerically_equal(left, right, budget) or _printed_equal(left, right, budget)


def _exact_or_none(node: Node, budget: Budget) -> Fraction | None:
    try:
        return evaluate_exact(node, budget)
    except (Undefined, TooCostly):
        return None


def _by_fingerprint(left: Node, right: Node, budget: Budget) -> bool | None:
    try:
        (a, pure_a), (b, pure_b) = fingerprint(left, budget), fingerprint(right, budget)
    except Undefined:
        return None
    if a == b:
        return True
    return False if pure_a and pure_b else None


def printed(node: Node) -> tuple[Fraction, int] | None:
    """Value and number of decimals of a decimal literal that is long enough to stand for a rounded
    exact value.
    """
    sign = 1
    if isinstance(node, Call) and node.name == "neg":
        node, sign = node.args[0], -1
    if not isinstance(node, Num) or not node.decimals:
        return None
    digits = len(str(abs(node.value.numerator * 10**node.decimals // node.value.denominator)))
    return (sign * node.value, node.decimals) if digits >= MIN_PRINTED_DIGITS else None


def _printed_equal(left: Node, right: Node, budget: Budget) -> bool:
    """One side is a long decimal: equal if the other, which is none, agrees to one unit of its last
    place.
    """
    decimal = [printed(left), printed(right)]
    if (decimal[0] is None) == (decimal[1] is None):
        return False
    shown, other = (decimal[0], right) if decimal[0] else (decimal[1], left)
    assert shown is not None
    if isinstance(other, Num) and other.decimals is not None:
        return False
    with context().workdps(DPS + shown[1]):
        evaluator = Evaluator(budget, {}, Mode())
        try:
            gap = evaluator.of(other) - evaluator.rational(shown[0])
        except Undefined:
            return False
        return bool(abs(gap) <= evaluator.ctx.mpf(10) ** -shown[1])


def _modes(*nodes: Node) -> list[Mode]:
    names = {n.name for node in nodes for n in walk(node) if isinstance(n, Call)}
    logs = (False, True) if "log" in names else (False,)
    roots = (False, True) if "^" in names else (False,)
    return [Mode(log10, real) for log10 in logs for real in roots]


def _numerically_equal(left: Node, right: Node, budget: Budget) -> bool:
    undecided: Undefined | None = None
    for mode in _modes(left, right):
        try:
            if _equal_in_mode(left, right, mode, budget):
                return True
        except Undefined as error:
            undecided = error
    if undecided is not None:
        raise undecided
    return False


def _equal_in_mode(left: Node, right: Node, mode: Mode, budget: Budget) -> bool:
    agreed_real = agreed_complex = 0
    complex_differs = False
    for point in sample_points(left, right):
        try:
            same, real = _agree(left, right, point, mode, budget)
        except Undefined:
            continue
        if not same and real:
            return False
        agreed_real += same and real
        agreed_complex += same and not real
        complex_differs = complex_differs or not (same or real)
        if agreed_real >= ENOUGH or not point:
            break
    if agreed_real + agreed_complex == 0 and not complex_differs:
        raise Undefined("no common domain")
    # Branches of roots and logarithms may differ off the reals without meaning anything.
    return agreed_real >= 2 or (not complex_differs and agreed_real + agreed_complex >= 1)


def sample_points(*nodes: Node) -> Iterator[dict[str, Fraction]]:
    """Positive values for the variables, integers for those that only make sense as such; one empty
    point for none.
    """
    names = sorted(frozenset().union(*(free_symbols(node) for node in nodes)))
    whole = frozenset().union(*(_integer_symbols(node) for node in nodes))
    if not names:
        yield {}
        return
    for index in range(POINTS):
        # common factors, lest every greatest common divisor be one
        scale = index + 1 if index % 2 and whole else 1
        point = {name: _sample(name, index, name in whole) for name in names}
        yield {name: value * scale if name in whole else value for name, value in point.items()}


def _sample(name: str, index: int, whole: bool) -> Fraction:
    digest = hashlib.blake2b(
        f"{name}\x1f{index}".encode("utf-8", "replace"), digest_size=8
    ).digest()
    uniform = int.from_bytes(digest, "big")
    if whole:
        return Fraction(1 + uniform % (6 + 2 * index))
    low, high = (Fraction(str(end)) for end in _RANGES[index % len(_RANGES)])
    return low + (high - low) * Fraction(uniform >> 40, 1 << 24)


def _integer_symbols(node: Node) -> frozenset[str]:
    """Variables in the range of a sum, in an exponent over a negative number, or under gcd, lcm and
    mod.
    """
    found: frozenset[str] = frozenset()
    for n in walk(node):
        if isinstance(n, Bound) and n.kind in ("sum", "prod") and n.high is not None:
            found |= free_symbols(n.low) | free_symbols(n.high)
        elif isinstance(n, Call) and n.name == "^" and _is_negative_literal(n.args[0]):
            found |= free_symbols(n.args[1])
        elif isinstance(n, Call) and n.name in ("gcd", "lcm", "mod"):
            found |= free_symbols(n)
        elif isinstance(n, Call) and n.name in ("floor", "ceil"):
            found |= free_symbols(n) & _COUNTS
    return found


def _is_negative_literal(node: Node) -> bool:
    if isinstance(node, Call) and node.name == "neg":
        return not free_symbols(node)
    return isinstance(node, Num) and node.value < 0


def _agree(
    left: Node, right: Node, point: dict[str, Fraction], mode: Mode, budget: Budget
) -> tuple[bool, bool]:
    """Whether the values agree at the point, and whether the evaluation stayed among the reals."""
    a, b, real, inexact = evaluate_pair(left, right, point, mode, budget, DPS)
    ctx = context()
    if ctx.isinf(a) or ctx.isinf(b):
        return bool(a == b), True
    with ctx.workdps(DPS):
        gap, size = abs(a - b), max(abs(a), abs(b))
        if gap > size * ctx.mpf("1e-3") and min(abs(a), abs(b)) > ctx.mpf("1e-25"):
            return False, real
        if inexact:
            return bool(gap <= max(size, ctx.mpf("1e-3")) * ctx.mpf(10) ** (3 - INEXACT_DPS)), real
        close = bool(gap <= size * ctx.mpf(10) ** (20 - DPS))
    if close and point:
        return True, real
    # A constant, or a suspected cancellation: a true difference stays at higher precision,
    # rounding noise shrinks.
    a, b, real, _ = evaluate_pair(left, right, point, mode, budget, CONFIRM_DPS)
    with ctx.workdps(CONFIRM_DPS):
        fine_gap, size = abs(a - b), max(abs(a), abs(b))
        if fine_gap <= size * ctx.mpf(10) ** (40 - CONFIRM_DPS):
            return True, real
        return bool(fine_gap <= gap * ctx.mpf(10) ** ((DPS - CONFIRM_DPS) // 2)), real


def evaluate_pair(
    left: Node, right: Node, point: dict[str, Fraction], mode: Mode, budget: Budget, dps: int
) -> tuple[Value, Value, bool, bool]:
    with context().workdps(dps):
        values: list[Value] = []
        real, inexact = True, False
        for node in (left, right):
            evaluator = Evaluator(budget, {}, mode)
            evaluator.env = {name: evaluator.rational(value) for name, value in point.items()}
            values.append(evaluator.of(node))
            real = real and not evaluator.left_reals
            inexact = inexact or evaluator.inexact
        return values[0], values[1], real, inexact
