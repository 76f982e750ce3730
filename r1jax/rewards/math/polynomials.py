"""Rational functions of one variable with exact coefficients, as far as inequalities need them."""

from __future__ import annotations

from fractions import Fraction

from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.nodes import ONE, Call, Node, Num, Sym, TooCostly, Undefined

MAX_DEGREE = 24

Poly = tuple[Fraction, ...]  # lowest power first


def rational_function(node: Node, name: str, budget: Budget) -> tuple[Poly, Poly]:
    """Numerator and denominator in `name`, or `Undefined`."""
    budget.charge(4)
    if isinstance(node, Num):
        return (node.value,), (Fraction(1),)
    if node == Sym(name):
        return (Fraction(0), Fraction(1)), (Fraction(1),)
    if not isinstance(node, Call):
        raise Undefined("no polynomial")
    if node.name == "^":
        return _poly_power(node, name, budget)
    parts = [rational_function(arg, name, budget) for arg in node.args]
    if node.name == "neg":
        return tuple(-c for c in parts[0][0]), parts[0][1]
    if node.name == "/":
        (a, b), (c, d) = parts
        return _times(a, d, budget), _times(b, c, budget)
    if node.name not in ("+", "*"):
        raise Undefined("no polynomial")
    top, bottom = parts[0]
    for c, d in parts[1:]:
        top = (
            _plus(_times(top, d, budget), _times(bottom, c, budget))
            if node.name == "+"
            else _times(top, c, budget)
        )
        bottom = _times(bottom, d, budget)
    return top, bottom


def _poly_power(node: Call, name: str, budget: Budget) -> tuple[Poly, Poly]:
    exponent = node.args[1]
    if isinstance(exponent, Call) and exponent.name == "neg":
        return rational_function(
            Call("/", (ONE, Call("^", (node.args[0], exponent.args[0])))), name, budget
        )
    if (
        not isinstance(exponent, Num)
        or exponent.value.denominator != 1
        or abs(exponent.value) > MAX_DEGREE
    ):
        raise Undefined("no polynomial")
    count = int(exponent.value)
    if count < 0:
        return rational_function(
            Call("/", (ONE, Call("^", (node.args[0], Num(Fraction(-count)))))), name, budget
        )
    product = rational_function(
        Call("*", (node.args[0],) * count) if count > 1 else node.args[0] if count else ONE,
        name,
        budget,
    )
    return product


def _plus(a: Poly, b: Poly) -> Poly:
    size = max(len(a), len(b))
    return _trim(
        [
            (a[i] if i < len(a) else Fraction(0)) + (b[i] if i < len(b) else Fraction(0))
            for i in range(size)
        ]
    )


def _times(a: Poly, b: Poly, budget: Budget) -> Poly:
    if len(a) + len(b) > MAX_DEGREE + 2:
        raise TooCostly("degree")
    budget.charge(len(a) * len(b))
    result = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return _trim(result)


def _trim(coefficients: list[Fraction]) -> Poly:
    while len(coefficients) > 1 and not coefficients[-1]:
        coefficients.pop()
    return tuple(coefficients)


def _remainder(a: Poly, b: Poly) -> Poly:
    rest = list(a)
    while len(rest) >= len(b) and any(rest):
        scale = rest[-1] / b[-1]
        for i, coefficient in enumerate(b):
            rest[len(rest) - len(b) + i] -= scale * coefficient
        rest.pop()
    return _trim(rest or [Fraction(0)])


def square_free(poly: Poly) -> Poly:
    """The polynomial with every root once; numeric root finding is slow and rough at multiple
    roots.
    """
    if len(poly) < 3:
        return poly
    a, b = poly, tuple(i * c for i, c in enumerate(poly))[1:]
    while any(b):
        a, b = b, _remainder(a, b)
    if len(a) < 2:
        return poly
    quotient, rest = [Fraction(0)] * (len(poly) - len(a) + 1), list(poly)
    for shift in range(len(quotient) - 1, -1, -1):
        quotient[shift] = rest[shift + len(a) - 1] / a[-1]
        for i, coefficient in enumerate(a):
            rest[shift + i] -= quotient[shift] * coefficient
    return tuple(quotient)
