"""Exact rational values. Every operation is bounded by the sizes of its operands before it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from r1jax.rewards.math.guard import MAX_TERMS, Budget
from r1jax.rewards.math.nodes import (
    Based,
    Bound,
    Call,
    Node,
    Num,
    Quantity,
    Sym,
    TooCostly,
    Undefined,
)

Env = Mapping[str, Fraction]


def bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def evaluate_exact(node: Node, budget: Budget, env: Env | None = None) -> Fraction:
    """The rational value; `Undefined` if there is none or none is known, `TooCostly` if it would be
    too large.
    """
    budget.charge()
    if isinstance(node, Num):
        return node.value
    if isinstance(node, Call):
        if node.name == "^":
            return _power_node(node, budget, env)
        if node.name == "mod" and isinstance(node.args[0], Call) and node.args[0].name == "^":
            return _power_mod(node, budget, env)
        rule = _RULES.get(node.name)
        if rule is None:
            raise Undefined(node.name)
        return rule(budget, *[evaluate_exact(arg, budget, env) for arg in node.args])
    if isinstance(node, Sym) and env and node.name in env:
        return env[node.name]
    if isinstance(node, Based):
        return Fraction(int(node.digits, node.base))
    if isinstance(node, Bound) and node.kind in ("sum", "prod") and node.high is not None:
        return _range(node, budget, env or {})
    if isinstance(node, Quantity) and not node.unit.dims:
        return evaluate_exact(node.value, budget, env) * node.unit.factor
    raise Undefined("not rational")


def _add(budget: Budget, *values: Fraction) -> Fraction:
    total = Fraction(0)
    for value in values:
        budget.charge_bits(bits(total) + bits(value))
        total += value
    return total


def _multiply(budget: Budget, *values: Fraction) -> Fraction:
    total = Fraction(1)
    for value in values:
        budget.charge_bits(bits(total) + bits(value))
        total *= value
    return total


def _divide(budget: Budget, top: Fraction, bottom: Fraction) -> Fraction:
    if not bottom:
        raise Undefined("division by zero")
    budget.charge_bits(bits(top) + bits(bottom))
    return top / bottom


def power(budget: Budget, base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent where the result is rational."""
    if exponent.denominator != 1:
        root = _root(budget, base, Fraction(exponent.denominator))
        return power(budget, root, Fraction(exponent.numerator))
    if base in (0, 1, -1):
        if base == 0 and exponent < 0:
            raise Undefined("division by zero")
        return base ** (int(exponent) % 2 + 2 if exponent else 0)
    budget.charge_bits(min(bits(base) * abs(exponent.numerator), 1 << 62))
    return base ** int(exponent)


def _power_node(node: Call, budget: Budget, env: Env | None) -> Fraction:
    base = evaluate_exact(node.args[0], budget, env)
    return power(budget, base, evaluate_exact(node.args[1], budget, env))


def _power_mod(node: Call, budget: Budget, env: Env | None) -> Fraction:
    tower = node.args[0]
    assert isinstance(tower, Call)
    base, exponent, modulus = (
        _integer(evaluate_exact(n, budget, env)) for n in (*tower.args, node.args[1])
    )
    if modulus <= 0 or exponent < 0:
        raise Undefined("modulus")
    budget.charge_bits(exponent.bit_length() + modulus.bit_length() * 4)
    if modulus.bit_length() > 4096:
        raise TooCostly("modulus too large")
    return Fraction(pow(base, exponent, modulus))


def _root(budget: Budget, value: Fraction, degree: Fraction) -> Fraction:
    """An exact root, or `Undefined`: √16 but not √2."""
    index = _integer(degree)
    if not 1 <= index <= 64 or (value < 0 and index % 2 == 0):
        raise Undefined("no rational root")
    budget.charge_bits(bits(value) * 2)
    if bits(value) > 20_000:
        raise TooCostly("root of a large number")
    sign = -1 if value < 0 else 1
    top, bottom = (_integer_root(abs(n), index) for n in (value.numerator, value.denominator))
    return sign * Fraction(top, bottom)


def _integer_root(value: int, index: int) -> int:
    guess = math.isqrt(value) if index == 2 else _newton_root(value, index)
    if guess**index != value:
        raise Undefined("no rational root")
    return guess


def _newton_root(value: int, index: int) -> int:
    if value < 2:
        return value
    guess = 1 << -(-value.bit_length() // index)
    while True:
        better = ((index - 1) * guess + value // guess ** (index - 1)) // index
        if better >= guess:
            return guess
        guess = better


def _integer(value: Fraction) -> int:
    if value.denominator != 1:
        raise Undefined("not an integer")
    return value.numerator


def _factorial(budget: Budget, value: Fraction) -> Fraction:
    n = _integer(value)
    if n < 0:
        raise Undefined("factorial of a negative number")
    budget.charge_bits(n * max(n.bit_length() - 1, 1))
    return Fraction(math.factorial(n))


def _double_factorial(budget: Budget, value: Fraction) -> Fraction:
    n = _integer(value)
    if n < 0:
        raise Undefined("factorial of a negative number")
    budget.charge_bits(n * n.bit_length() // 2 + 1)
    return Fraction(math.prod(range(n, 0, -2)))


def _binomial(budget: Budget, top: Fraction, bottom: Fraction) -> Fraction:
    n, k = _integer(top), _integer(bottom)
    if n < 0:
        raise Undefined("binomial of a negative number")
    budget.charge_bits(max(0, min(k, n - k)) * n.bit_length() + 1)
    return Fraction(math.comb(n, k) if 0 <= k <= n else 0)


def _permutations(budget: Budget, top: Fraction, bottom: Fraction) -> Fraction:
    n, k = _integer(top), _integer(bottom)
    if n < 0 or k < 0:
        raise Undefined("permutations of a negative number")
    budget.charge_bits(k * n.bit_length() + 1)
    return Fraction(math.perm(n, k))


def _modulo(budget: Budget, value: Fraction, modulus: Fraction) -> Fraction:
    if modulus <= 0:
        raise Undefined("modulus")
    budget.charge_bits(bits(value) + bits(modulus))
    return value % modulus


def _fold(function: Callable[..., int]) -> Callable[..., Fraction]:
    def rule(budget: Budget, *values: Fraction) -> Fraction:
        budget.charge_bits(sum(map(bits, values)))
        return Fraction(function(*map(_integer, values)))

    return rule


def _range(node: Bound, budget: Budget, env: Env) -> Fraction:
    assert node.high is not None
    low, high = (_integer(evaluate_exact(n, budget, env)) for n in (node.low, node.high))
    if high - low > MAX_TERMS:
        raise TooCostly("too many terms")
    total = Fraction(0 if node.kind == "sum" else 1)
    for k in range(low, high + 1):
        term = evaluate_exact(node.body, budget, {**env, node.var: Fraction(k)})
        total = _add(budget, total, term) if node.kind == "sum" else _multiply(budget, total, term)
    return total


_RULES: dict[str, Callable[..., Fraction]] = {
    "+": _add,
    "*": _multiply,
    "/": _divide,
    "neg": lambda _, x: -x,
    "root": _root,
    "factorial": _factorial,
    "factorial2": _double_factorial,
    "binom": _binomial,
    "perm": _permutations,
    "mod": _modulo,
    "abs": lambda _, x: abs(x),
    "floor": lambda _, x: Fraction(math.floor(x)),
    "ceil": lambda _, x: Fraction(math.ceil(x)),
    "max": lambda _, *xs: max(xs),
    "min": lambda _, *xs: min(xs),
    "gcd": _fold(math.gcd),
    "lcm": _fold(math.lcm),
    "sgn": lambda _, x: Fraction((x > 0) - (x < 0)),
    "%": lambda _, x: x / 100,
    "permille": lambda _, x: x / 1000,
}
