"""Equality of statements: equations with the same solutions, inequalities, and chains compared term
by term.
"""

from __future__ import annotations

from fractions import Fraction

from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.nodes import (
    Call,
    Chain,
    Node,
    Num,
    Sym,
    Undefined,
    free_symbols,
    negate,
    walk,
)
from r1jax.rewards.math.numeric import Mode, Value, context
from r1jax.rewards.math.scalars import DPS, evaluate_pair, sample_points, scalars_equal

_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_SYMMETRIC = frozenset(("=", "!=", "≡", "~", "≅", "∥", "⊥", "≈"))
_NEEDED = 4


def difference(chain: Chain) -> Node:
    return Call("+", (chain.terms[0], negate(chain.terms[1])))


def equations_equal(left: Chain, right: Chain, budget: Budget) -> bool:
    """Whether two equations say the same: their differences are proportional, or one solves the
    other and back.
    """
    f, g = difference(left), difference(right)
    if free_symbols(f) != free_symbols(g):
        return False
    ratios = _ratios(f, g, budget)
    if len(ratios) >= 2 and all(_near(r, ratios[0]) for r in ratios):
        return bool(ratios[0])
    return any(_same_graph(f, g, name, budget) for name in sorted(free_symbols(f)))


def agree_below_zero(left: Chain, right: Chain, budget: Budget) -> bool:
    """|x| = 1 has a solution more than x = 1, although letters are positive in expressions."""
    f, g = difference(left), difference(right)
    for name in sorted(_in_bars(f) ^ _in_bars(g)):
        below = negate(Sym(name))
        ratios = _ratios(substitute(f, name, below), substitute(g, name, below), budget)
        if len(ratios) >= 2 and not all(_near(r, ratios[0]) for r in ratios):
            return False
    return True


def _in_bars(node: Node) -> frozenset[str]:
    """The letters under a sign of the absolute value."""
    calls = [n for n in walk(node) if isinstance(n, Call) and n.name == "abs"]
    return frozenset(name for call in calls for name in free_symbols(call))


def inequalities_equal(left: Chain, right: Chain, budget: Budget) -> bool:
    """a < b and c < d with a − b a positive multiple of c − d."""
    if len(left.ops) != 1 or len(right.ops) != 1:
        return False
    f, g = difference(left), difference(right)
    if free_symbols(f) != free_symbols(g):
        return False
    sign = 1
    if left.ops != right.ops:
        if _FLIP.get(left.ops[0]) != right.ops[0]:
            return False
        sign = -1
    ratios = _ratios(f, g, budget)
    return (
        len(ratios) >= 2
        and all(_near(r, ratios[0]) for r in ratios)
        and bool(context().re(ratios[0]) * sign > 0)
    )


def _ratios(f: Node, g: Node, budget: Budget) -> list[Value]:
    """f/g at sample points where g is not zero; (0) stands for a mismatch of zeros."""
    ratios: list[Value] = []
    ctx = context()
    for point in sample_points(f, g):
        try:
            a, b, _, _ = evaluate_pair(f, g, point, Mode(), budget, DPS)
        except Undefined:
            continue
        tiny = ctx.mpf(10) ** (10 - DPS)
        if abs(b) < tiny or abs(a) < tiny:
            if abs(a) < tiny and abs(b) < tiny:
                continue
            return [ctx.mpf(1), ctx.mpf(2)]
        with ctx.workdps(DPS):
            ratios.append(a / b)
        if len(ratios) == _NEEDED:
            break
    return ratios


def _near(a: Value, b: Value) -> bool:
    return bool(abs(a - b) <= abs(b) * context().mpf("1e-25"))


def _same_graph(f: Node, g: Node, name: str, budget: Budget) -> bool:
    """Both linear in `name`, and both solved for it give the same function: xy = 1 and y = 1/x."""
    solutions = []
    for node in (f, g):
        zero, one, two = (substitute(node, name, Num(Fraction(k))) for k in (0, 1, 2))
        slope = Call("+", (one, negate(zero)))
        try:
            linear = scalars_equal(Call("+", (two, negate(one))), slope, budget)
        except Undefined:
            return False
        if not linear:
            return False
        solutions.append(negate(Call("/", (zero, slope))))
    try:
        return scalars_equal(solutions[0], solutions[1], budget)
    except Undefined:
        return False


def substitute(node: Node, name: str, value: Node) -> Node:
    if isinstance(node, Sym):
        return value if node.name == name else node
    if isinstance(node, Call):
        return Call(node.name, tuple(substitute(arg, name, value) for arg in node.args))
    return node


def normal_direction(chain: Chain) -> Chain:
    """A chain that only descends, read from its other end."""
    if chain.ops and all(op in (">", ">=") for op in chain.ops):
        return Chain(chain.terms[::-1], tuple(_FLIP[op] for op in reversed(chain.ops)))
    return chain


def is_symmetric(op: str) -> bool:
    return op in _SYMMETRIC
