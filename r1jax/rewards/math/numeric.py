"""Floating values at chosen points, with mpmath at a chosen precision.

Each thread has a context of its own, and the constants that mpmath caches process-wide are computed
once at import to a precision above any used here: filling those caches from two threads at a time
is a race.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
from mpmath.libmp import ComplexResult

from r1jax.rewards.math.exact import evaluate_exact
from r1jax.rewards.math.guard import MAX_LOG2, MAX_TERMS, Budget
from r1jax.rewards.math.nodes import (
    Based,
    Bound,
    Call,
    Matrix,
    Node,
    Num,
    OutOfRange,
    Quantity,
    Sym,
    TooCostly,
    Undefined,
    walk,
)

MAX_DPS = 260
INEXACT_DPS = 15
DPS_OF_LIMITS = 80
_local = threading.local()

Value = Any  # mpf or mpc of the thread's own context


def context() -> Any:
    if not hasattr(_local, "context"):
        _local.context = mpmath.mp.clone()
    return _local.context


def _warm_constant_caches() -> None:
    ctx = context()
    with ctx.workdps(2 * MAX_DPS + 1200):
        for constant in (ctx.pi, ctx.e, ctx.ln2, ctx.ln10, ctx.euler, ctx.phi, ctx.degree):
            ctx.mpf(constant)


_warm_constant_caches()


@dataclass(frozen=True, slots=True)
class Mode:
    """How ambiguous notation is read, the same way on both sides: log to base 10 or e; (−8)^(1/3)
    real or principal.
    """

    log10: bool = False
    real_roots: bool = False


class Evaluator:
    """Values of expressions at one point. `left_reals` tells that a root or logarithm of a negative
    number was taken.
    """

    def __init__(self, budget: Budget, env: Mapping[str, Value], mode: Mode) -> None:
        self.ctx = context()
        self.budget = budget
        self.env = dict(env)
        self.mode = mode
        self.left_reals = False
        self.inexact = False

    def of(self, node: Node) -> Value:
        self.budget.charge(1 + (self.ctx.prec >> 9) ** 2)
        if isinstance(node, Num):
            return self.rational(node.value)
        if isinstance(node, Sym):
            return self.symbol(node.name)
        if isinstance(node, Call):
            value = self.call(node)
            self.check(value)
            return value
        if isinstance(node, Bound):
            return self.bound(node)
        if isinstance(node, Based):
            return self.ctx.mpf(int(node.digits, node.base))
        if isinstance(node, Quantity):
            return self.of(node.value) * self.rational(node.unit.factor)
        raise Undefined("no number")

    def rational(self, value: Fraction) -> Value:
        return self.ctx.mpf(value.numerator) / value.denominator

    def symbol(self, name: str) -> Value:
        if name in self.env:
            return self.env[name]
        match name:
            case "pi":
                return +self.ctx.pi
            case "e":
                return +self.ctx.e
            case "i":
                return self.ctx.mpc(0, 1)
            case "inf":
                return self.ctx.inf
        raise Undefined(f"no value for {name}")

    def check(self, value: Value) -> None:
        if self.ctx.isnan(value):
            raise Undefined("not a number")
        if value and not self.ctx.isinf(value) and abs(self.ctx.mag(value)) > MAX_LOG2:
            raise OutOfRange("magnitude")

    def call(self, node: Call) -> Value:
        name = node.name
        if name == "^":
            return self.power(node)
        if name in ("det", "abs") and isinstance(node.args[0], Matrix):
            return self.determinant(node.args[0])
        if name == "apply":
            return self.opaque(node)
        rule = _RULES.get(name)
        if rule is None:
            raise Undefined(f"no value for {name}")
        values = [self.of(arg) for arg in node.args]
        try:
            return rule(self, *values)
        except (ValueError, ZeroDivisionError, ComplexResult, OverflowError) as error:
            if isinstance(error, TooCostly | Undefined):
                raise
            raise Undefined(str(error)) from None

    # powers, roots, logarithms

    def power(self, node: Call) -> Value:
        base, exponent = self.of(node.args[0]), self.of(node.args[1])
        if not base:
            if self.ctx.re(exponent) < 0:
                raise Undefined("division by zero")
            return self.ctx.mpf(0 if exponent else 1)
        if self.ctx.isinf(base) or self.ctx.isinf(exponent):
            raise Undefined("infinite power")
        crude = abs(exponent) * (abs(self.ctx.mag(base)) + 2)
        if crude > MAX_LOG2 and abs(exponent * self.ctx.log(abs(base))) > MAX_LOG2:
            raise OutOfRange("power")
        whole = self.whole(exponent)
        if whole is not None:
            return base**whole
        if self.is_negative(base):
            if self.mode.real_roots and (odd := self.odd_root(base, node.args[1])) is not None:
                return odd
            self.left_reals = True
        return self.ctx.power(base, exponent)

    def odd_root(self, base: Value, exponent: Node) -> Value | None:
        try:
            ratio = evaluate_exact(exponent, self.budget)
        except (Undefined, TooCostly):
            return None
        if ratio.denominator % 2 == 0:
            return None
        return (-1) ** (ratio.numerator % 2) * self.ctx.power(-base, self.rational(ratio))

    def root(self, value: Value, degree: Value) -> Value:
        index = self.whole(degree)
        if self.is_negative(value):
            if index is not None and index % 2:
                return -self.ctx.power(-value, 1 / self.ctx.mpf(index))
            self.left_reals = True
        return self.ctx.sqrt(value) if index == 2 else self.ctx.power(value, 1 / degree)

    def log(self, value: Value) -> Value:
        if self.is_negative(value):
            self.left_reals = True
        return self.ctx.log(value)

    def is_negative(self, value: Value) -> bool:
        return self.ctx.im(value) == 0 and self.ctx.re(value) < 0

    def whole(self, value: Value) -> int | None:
        """The integer that the value is, up to rounding."""
        if self.ctx.im(value) != 0 or self.ctx.isinf(value) or abs(value) > 1e18:
            return None
        nearest = self.ctx.nint(self.ctx.re(value))
        return (
            int(nearest)
            if abs(self.ctx.re(value) - nearest) < self.ctx.mpf(10) ** (8 - self.ctx.dps)
            else None
        )

    def integer(self, value: Value) -> int:
        if (whole := self.whole(value)) is None:
            raise Undefined("not an integer")
        return whole

    def real(self, value: Value) -> Value:
        if self.ctx.im(value) != 0:
            raise Undefined("not real")
        return self.ctx.re(value)

    # functions

    def circular(self, name: str, value: Value) -> Value:
        if value and self.ctx.mag(value) > 1000:
            raise TooCostly("argument of a periodic function")
        result = getattr(self.ctx, name)(value)
        if result and self.ctx.mag(result) > 0.8 * self.ctx.prec:
            raise Undefined("pole")
        return result

    def hyperbolic(self, name: str, value: Value) -> Value:
        if abs(self.ctx.re(value)) > MAX_LOG2:
            raise OutOfRange("exponential")
        return getattr(self.ctx, name)(value)

    def inverse(self, name: str, value: Value) -> Value:
        result = getattr(self.ctx, name)(value)
        self.left_reals = self.left_reals or self.ctx.im(result) != 0
        return result

    def factorial(self, value: Value) -> Value:
        if abs(value) > 1e9:
            raise TooCostly("factorial")
        self.budget.charge(20)
        return self.ctx.gamma(value + 1)

    def binomial(self, top: Value, bottom: Value) -> Value:
        if max(abs(top), abs(bottom)) > 1e6:
            raise TooCostly("binomial")
        self.budget.charge(40)
        return self.ctx.binomial(top, bottom)

    def floor(self, value: Value) -> Value:
        whole = self.whole(value)
        return self.ctx.mpf(whole) if whole is not None else self.ctx.floor(self.real(value))

    def determinant(self, matrix: Matrix) -> Value:
        size = len(matrix.rows)
        if any(len(row) != size for row in matrix.rows) or size > 12:
            raise Undefined("determinant")
        rows = [[self.of(entry) for entry in row] for row in matrix.rows]
        self.budget.charge(size**3)
        return self.ctx.det(self.ctx.matrix(rows))

    def opaque(self, node: Call) -> Value:
        """An unknown function is a fixed smooth one, made from its name, so that equal arguments
        give equal values.
        """
        head, *rest = node.args
        name = head.name if isinstance(head, Sym) else ""
        if name == "_" and isinstance(rest[0], Sym):
            name, rest = "_" + rest[0].name, rest[1:]
        total = hashed_real(self.ctx, "apply", name)
        for position, arg in enumerate(rest):
            slope = hashed_real(self.ctx, "slope", name, position)
            total += self.ctx.cos(slope * self.of(arg) + position) / 3
        return total

    # sums, integrals, limits, derivatives

    def bound(self, node: Bound) -> Value:
        def at(point: Value) -> Value:
            self.env[node.var] = point
            return self.of(node.body)

        outer = self.env.get(node.var)
        try:
            return self.bound_value(node, at, outer)
        except (ValueError, ZeroDivisionError, ArithmeticError) as error:
            if isinstance(error, TooCostly | Undefined):
                raise
            raise Undefined(str(error)) from None
        finally:
            self.env.pop(node.var, None)
            if outer is not None:
                self.env[node.var] = outer

    def limit(self, at: Callable[[Value], Value], target: Value) -> Value:
        """The value very near the target, if it has settled there. Acceleration schemes find slower
        limits, but raise the precision without a bound.
        """
        with self.ctx.workdps(DPS_OF_LIMITS):
            offsets = [self.ctx.mpf(10) ** -power for power in (18, 20)]
            infinite = self.ctx.isinf(target)
            sign = -1 if infinite and target < 0 else 1
            near, nearer = (at(sign / h if infinite else target + h) for h in offsets)
            if abs(near - nearer) > self.ctx.mpf(10) ** -INEXACT_DPS * max(1, abs(nearer)):
                raise Undefined("no limit found")
            return nearer

    def vanishing(self, at: Callable[[Value], Value]) -> Callable[[Value], Value]:
        """For the far nodes of an improper integral, where e^(−x²) is below any range."""

        def value(point: Value) -> Value:
            try:
                return at(point)
            except OutOfRange:
                return self.ctx.mpf(0)

        return value

    def bound_value(self, node: Bound, at: Callable[[Value], Value], outer: Value) -> Value:
        endless = node.high is not None and any(n == Sym("inf") for n in walk(node.high))
        if node.kind in ("diff", "lim", "int") or endless:
            if any(isinstance(n, Bound) for n in walk(node.body)):
                raise TooCostly("nested limits")
            self.inexact = True
        if node.kind == "diff":
            if outer is None:
                raise Undefined("derivative at no point")
            return self.ctx.diff(at, outer)
        low = self.of(node.low)
        if node.kind == "lim":
            return self.limit(at, low)
        assert node.high is not None
        high = self.of(node.high)
        if node.kind == "int":
            with self.ctx.workdps(INEXACT_DPS + 8):
                return self.ctx.quad(self.vanishing(at), [low, high], maxdegree=5)
        if self.ctx.isinf(high):
            with self.ctx.workdps(INEXACT_DPS + 5):
                fold = self.ctx.nsum if node.kind == "sum" else self.ctx.nprod
                return fold(at, [self.integer(low), self.ctx.inf])
        first, last = self.integer(low), self.integer(high)
        if last - first > MAX_TERMS:
            raise TooCostly("too many terms")
        terms = [at(self.ctx.mpf(k)) for k in range(first, last + 1)]
        return self.ctx.fsum(terms) if node.kind == "sum" else self.ctx.fprod(terms)


def hashed_real(ctx: Any, *parts: object) -> Value:
    """A fixed number in [1/2, 3/2) that looks random."""
    digest = hashlib.blake2b(
        "\x1f".join(map(str, parts)).encode("utf-8", "replace"), digest_size=8
    ).digest()
    return ctx.mpf(int.from_bytes(digest, "big")) / 2**64 + 0.5


def _named(method: str, name: str) -> Callable[[Evaluator, Value], Value]:
    return lambda ev, x: getattr(ev, method)(name, x)


def _extreme(choose: Callable[..., Any]) -> Callable[..., Value]:
    return lambda ev, *xs: choose(ev.real(x) for x in xs)


_RULES: dict[str, Callable[..., Value]] = {
    "+": lambda ev, *xs: ev.ctx.fsum(xs),
    "*": lambda ev, *xs: ev.ctx.fprod(xs),
    "/": lambda ev, x, y: x / y,
    "neg": lambda ev, x: -x,
    "root": lambda ev, x, n: ev.root(x, n),
    "%": lambda ev, x: x / 100,
    "permille": lambda ev, x: x / 1000,
    "deg": lambda ev, x: x * ev.ctx.pi / 180,
    "abs": lambda ev, x: abs(x),
    "ln": lambda ev, x: ev.log(x),
    "lg": lambda ev, x: ev.log(x) / ev.ctx.ln10,
    "log": lambda ev, x: ev.log(x) / (ev.ctx.ln10 if ev.mode.log10 else 1),
    "logb": lambda ev, x, b: ev.log(x) / ev.log(b),
    "exp": lambda ev, x: ev.hyperbolic("exp", x),
    "factorial": lambda ev, x: ev.factorial(x),
    "factorial2": lambda ev, x: ev.ctx.fac2(x) if abs(x) < 1e6 else ev.factorial(x),
    "binom": lambda ev, n, k: ev.binomial(n, k),
    "perm": lambda ev, n, k: ev.factorial(n) / ev.factorial(n - k),
    "floor": lambda ev, x: ev.floor(x),
    "ceil": lambda ev, x: -ev.floor(-x),
    "mod": lambda ev, x, y: x - y * ev.floor(x / y),
    "max": _extreme(max),
    "min": _extreme(min),
    "gcd": lambda ev, *xs: ev.ctx.mpf(math.gcd(*map(ev.integer, xs))),
    "sgn": lambda ev, x: ev.ctx.sign(x),
    "conj": lambda ev, x: ev.ctx.conj(x),
    "Re": lambda ev, x: ev.ctx.re(x),
    "Im": lambda ev, x: ev.ctx.im(x),
    "arg": lambda ev, x: ev.ctx.arg(x),
    "cis": lambda ev, x: ev.ctx.expj(x),
    "arccot": lambda ev, x: ev.ctx.pi / 2 - ev.ctx.atan(x),
    **{name: _named("circular", name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: _named("hyperbolic", name) for name in ("sinh", "cosh", "tanh", "coth", "sech",
    "csch")},
    **{f"arc{name}": _named("inverse", f"a{name}") for name in
       ("sin", "cos", "tan", "sec", "csc", "sinh", "cosh", "tanh")},
}  # fmt: skip
