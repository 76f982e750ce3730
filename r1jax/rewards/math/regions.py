"""Sets of real numbers as unions of pieces, from intervals, inequalities, set builders and set
operations alike.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.nodes import (
    Builder,
    Call,
    Chain,
    Interval,
    Node,
    Num,
    Seq,
    Sym,
    TooCostly,
    Undefined,
    free_symbols,
    negate,
)
from r1jax.rewards.math.numeric import Evaluator, Mode, Value, context
from r1jax.rewards.math.polynomials import Poly, rational_function, square_free

DPS = 40
ORDERINGS = frozenset(("<", ">", "<=", ">="))
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


@dataclass(frozen=True, slots=True)
class Piece:
    low: Value
    high: Value
    low_closed: bool
    high_closed: bool


Region = list[Piece]


def is_regional(node: Node) -> bool:
    """Whether the node can only be a set of reals, which a round pair is not: it may be a point."""
    if isinstance(node, Interval | Builder):
        return True
    if isinstance(node, Chain):
        return any(op in ORDERINGS or op == "!=" for op in node.ops) or (
            node.ops == ("in",) and _may_be_interval(node.terms[1])
        )
    if isinstance(node, Call):
        if node.name == "∪":  # of listed sets it may be a set of anything
            return not all(isinstance(arg, Seq) and arg.kind == "set" for arg in node.args)
        if node.name in ("∩", "\\"):
            return True
        if node.name in ("or", "and"):
            return any(is_regional(arg) for arg in node.args)
        return node.name == "+" and is_regional(node.args[0])
    if isinstance(node, Seq):
        return node.kind == "tuple" and len(node.items) == 2 and any(map(_is_infinite, node.items))
    return isinstance(node, Sym) and node.name in ("set:R", "set:R+", "set:R-", "set:R*")


def _may_be_interval(node: Node) -> bool:
    pair = isinstance(node, Seq) and node.kind in ("tuple", "bracket") and len(node.items) == 2
    return pair or is_regional(node)


def _is_infinite(node: Node) -> bool:
    return node in (Sym("inf"), negate(Sym("inf")))


def is_setlike(node: Node) -> bool:
    return is_regional(node) or isinstance(node, Seq) or node == Sym("emptyset")


def region_variable(node: Node) -> str | None:
    """The variable that an inequality or membership is about; the variable of a set builder does
    not count.
    """
    if isinstance(node, Chain):
        names = [
            term.name
            for term in node.terms
            if isinstance(term, Sym) and term.name not in ("inf", "pi", "e")
        ]
        names = names or sorted(free_symbols(node))
        return names[0] if names else None
    if isinstance(node, Call) and node.name in ("or", "and"):
        return region_variable(node.args[0])
    return None


def region_variables(node: Node) -> set[str | None]:
    """Those of all the conditions that are joined in a node."""
    if isinstance(node, Call) and node.name in ("or", "and"):
        return set().union(*map(region_variables, node.args))
    if isinstance(node, Seq) and node.kind == "list" and all(map(is_regional, node.items)):
        return set().union(*map(region_variables, node.items))
    return {region_variable(node)}


def regions_equal(left: Node, right: Node, budget: Budget) -> bool:
    """Whether two set-like nodes are the same set. Raises `Undefined` if one has parameters."""
    with context().workdps(DPS):
        maker = _Maker(budget)
        a, b = maker.of(left), maker.of(right)
        if len(a) != len(b):
            return False
        return all(
            (p.low_closed, p.high_closed) == (q.low_closed, q.high_closed)
            and _same(p.low, q.low)
            and _same(p.high, q.high)
            for p, q in zip(a, b, strict=True)
        )


def as_interval(node: Node) -> Interval | None:
    """Solved inequalities and pairs as an interval with symbolic ends: x > a, a ≤ x < b, {x | …}, x
    ∈ (a, b).
    """
    if isinstance(node, Interval):
        return node
    if isinstance(node, Builder):
        return as_interval(node.condition)
    if isinstance(node, Seq) and node.kind in ("tuple", "bracket") and len(node.items) == 2:
        closed = node.kind == "bracket"
        return Interval(node.items[0], node.items[1], closed, closed)
    if not isinstance(node, Chain):
        return None
    if node.ops == ("in",):
        return as_interval(node.terms[1])
    terms, ops = node.terms, node.ops
    if all(op in (">", ">=") for op in ops):
        terms, ops = terms[::-1], tuple(_FLIP[op] for op in reversed(ops))
    if not all(op in ("<", "<=") for op in ops):
        return None
    infinite = Sym("inf")
    if len(terms) == 3 and isinstance(terms[1], Sym):
        return Interval(terms[0], terms[2], ops[0] == "<=", ops[1] == "<=")
    if (
        len(terms) == 2
        and isinstance(terms[0], Sym)
        and terms[0].name not in free_symbols(terms[1])
    ):
        return Interval(negate(infinite), terms[1], False, ops[0] == "<=")
    if (
        len(terms) == 2
        and isinstance(terms[1], Sym)
        and terms[1].name not in free_symbols(terms[0])
    ):
        return Interval(terms[0], infinite, ops[0] == "<=", False)
    return None


def _same(a: Value, b: Value) -> bool:
    ctx = context()
    if ctx.isinf(a) or ctx.isinf(b):
        return bool(a == b)
    return bool(abs(a - b) <= ctx.mpf("1e-22") * max(abs(a), abs(b), ctx.mpf("1e-6")))


class _Maker:
    def __init__(self, budget: Budget) -> None:
        self.ctx = context()
        self.budget = budget

    def of(self, node: Node) -> Region:
        self.budget.charge()
        match node:
            case Interval(low=low, high=high, low_closed=low_closed, high_closed=high_closed):
                return self.piece(low, high, low_closed, high_closed)
            case Seq(kind="list", items=items) if all(is_regional(item) for item in items):
                # a comma means "and", unless nothing could satisfy both
                return self.operation("and", items) or self.operation("or", items)
            case Seq(kind="set", items=items) | Seq(kind="list", items=items):
                return _union([p for item in items for p in self.piece(item, item, True, True)])
            case Seq(kind="tuple" | "bracket" as kind, items=(low, high)):
                return self.piece(low, high, kind == "bracket", kind == "bracket")
            case Builder(element=element, condition=condition):
                return self.builder(element, condition)
            case Chain():
                return self.chain(node)
            case Sym(name=name):
                return self.named(name)
            case Call(name=name, args=args):
                return self.operation(name, args)
        raise Undefined("no set of reals")

    def value(self, node: Node) -> Value:
        value = Evaluator(self.budget, {}, Mode()).of(node)
        if self.ctx.im(value) != 0:
            raise Undefined("not real")
        return self.ctx.re(value)

    def piece(self, low: Node, high: Node, low_closed: bool, high_closed: bool) -> Region:
        a, b = self.value(low), self.value(high)
        closed = low_closed and not self.ctx.isinf(a), high_closed and not self.ctx.isinf(b)
        if a > b or (_same(a, b) and not all(closed)):
            return []
        return [Piece(a, b, *closed)]

    def named(self, name: str) -> Region:
        inf, zero = self.ctx.inf, self.ctx.mpf(0)
        table = {
            "set:R": [Piece(-inf, inf, False, False)],
            "set:R+": [Piece(zero, inf, False, False)],
            "set:R-": [Piece(-inf, zero, False, False)],
            "set:R*": [Piece(-inf, zero, False, False), Piece(zero, inf, False, False)],
            "emptyset": [],
        }
        if name not in table:
            raise Undefined("no set of reals")
        return table[name]

    def operation(self, name: str, args: tuple[Node, ...]) -> Region:
        if name in ("∪", "or"):
            return _union([piece for arg in args for piece in self.of(arg)])
        if name in ("∩", "and"):
            result = self.of(args[0])
            for arg in args[1:]:
                result = self.intersect(result, self.of(arg))
            return result
        if name == "\\":
            return self.subtract(args[0], args[1:])
        if name == "+" and all(isinstance(arg, Call) and arg.name == "neg" for arg in args[1:]):
            return self.subtract(
                args[0], tuple(arg.args[0] for arg in args[1:] if isinstance(arg, Call))
            )
        raise Undefined("no set operation")

    def subtract(self, whole: Node, parts: tuple[Node, ...]) -> Region:
        result = self.of(whole)
        for part in parts:
            result = self.intersect(result, self.complement(self.of(part)))
        return result

    def builder(self, element: Node, condition: Node) -> Region:
        """{x ∈ S | conditions}; commas in the condition mean and."""
        parts = (
            condition.items
            if isinstance(condition, Seq) and condition.kind == "list"
            else (condition,)
        )
        domain: Region = self.named("set:R")
        if isinstance(element, Chain) and element.ops == ("in",):
            domain = self.of(element.terms[1])
        elif not isinstance(element, Sym):
            raise Undefined("set of expressions")
        for part in parts:
            domain = self.intersect(domain, self.of(part))
        return domain

    def complement(self, region: Region) -> Region:
        edges: Region = []
        low, low_closed = -self.ctx.inf, False
        for piece in region:
            edges.append(Piece(low, piece.low, low_closed, not piece.low_closed))
            low, low_closed = piece.high, not piece.high_closed
        edges.append(Piece(low, self.ctx.inf, low_closed, False))
        return [
            p
            for p in edges
            if p.low < p.high or (p.low == p.high and p.low_closed and p.high_closed)
        ]

    def intersect(self, left: Region, right: Region) -> Region:
        result: Region = []
        for p in left:
            for q in right:
                self.budget.charge()
                low, high = max(p.low, q.low), min(p.high, q.high)
                low_closed = all(r.low_closed for r in (p, q) if r.low == low)
                high_closed = all(r.high_closed for r in (p, q) if r.high == high)
                if low < high or (low == high and low_closed and high_closed):
                    result.append(Piece(low, high, low_closed, high_closed))
        return _union(result)

    # inequalities

    def chain(self, node: Chain) -> Region:
        if node.ops == ("in",):
            return self.of(node.terms[1])
        if node.ops == ("notin",):
            return self.complement(self.of(node.terms[1]))
        region = self.named("set:R")
        for i, op in enumerate(node.ops):
            if op not in _FLIP:
                raise Undefined("no order relation")
            region = self.intersect(region, self.solve(node.terms[i], op, node.terms[i + 1]))
        return region

    def solve(self, left: Node, op: str, right: Node) -> Region:
        """The reals where `left op right`, in the one variable that occurs."""
        names = free_symbols(left) | free_symbols(right)
        if len(names) != 1:
            raise Undefined("not one variable")
        name = next(iter(names))
        if isinstance(left, Sym) and not free_symbols(right):
            return self.half_line(self.value(right), op)
        if isinstance(right, Sym) and not free_symbols(left):
            return self.half_line(self.value(left), _FLIP[op])
        if (
            not free_symbols(right)
            and (linear := self.solve_linear(left, op, right, name)) is not None
        ):
            return linear
        left, right = self.squared(left, right)
        top, bottom = rational_function(Call("+", (left, negate(right))), name, self.budget)
        return self.sign_regions(top, bottom, op)

    def solve_linear(self, left: Node, op: str, right: Node, name: str) -> Region | None:
        """a·x + b or |a·x + b| against a constant, which need not be rational."""
        absolute = isinstance(left, Call) and left.name == "abs"
        inner = left.args[0] if absolute and isinstance(left, Call) else left
        try:
            top, bottom = rational_function(inner, name, self.budget)
        except Undefined:
            return None
        bound = self.value(right)
        if len(top) != 2 or len(bottom) != 1 or (absolute and bound <= 0):
            return None
        at = [
            self.ctx.mpf(c.numerator) / c.denominator / bottom[0].numerator * bottom[0].denominator
            for c in top
        ]
        op = _FLIP[op] if at[1] < 0 and not absolute else op
        ends = sorted((sign * bound - at[0]) / at[1] for sign in ((-1, 1) if absolute else (1,)))
        if not absolute:
            return self.half_line(ends[0], op)
        below, above = self.half_line(ends[0], _FLIP[op]), self.half_line(ends[1], op)
        if op in ("<", "<="):
            return self.intersect(below, above)
        return self.intersect(below, above) if op == "!=" else _union(below + above)

    def squared(self, left: Node, right: Node) -> tuple[Node, Node]:
        """|f| against a positive constant c as f² against c²."""
        for absolute, other, swap in ((left, right, False), (right, left, True)):
            if (
                isinstance(absolute, Call)
                and absolute.name == "abs"
                and not free_symbols(other)
                and self.value(other) > 0
            ):
                two = Num(Fraction(2))
                pair = Call("^", (absolute.args[0], two)), Call("^", (other, two))
                return (pair[1], pair[0]) if swap else pair
        return left, right

    def half_line(self, at: Value, op: str) -> Region:
        inf = self.ctx.inf
        if op in ("<", "<="):
            return [Piece(-inf, at, False, op == "<=")]
        if op in (">", ">="):
            return [Piece(at, inf, op == ">=", False)]
        point = [Piece(at, at, True, True)]
        return point if op == "=" else self.complement(point)

    def sign_regions(self, top: Poly, bottom: Poly, op: str) -> Region:
        zeros, poles = self.real_roots(top), self.real_roots(bottom)
        marks = sorted([(z, True) for z in zeros] + [(p, False) for p in poles], key=lambda m: m[0])
        edges = [-self.ctx.inf, *(m[0] for m in marks), self.ctx.inf]
        result: Region = []
        for low, high in pairwise(edges):
            if low == high:
                continue
            middle = _between(self.ctx, low, high)
            sign = self.at(top, middle) * self.at(bottom, middle)
            if (sign < 0 and op in ("<", "<=", "!=")) or (sign > 0 and op in (">", ">=", "!=")):
                result.append(Piece(low, high, False, False))
        if op in ("<=", ">=", "="):
            result += [
                Piece(z, z, True, True) for z in zeros if not any(_same(z, p) for p in poles)
            ]
        return _union(result)

    def at(self, poly: Poly, x: Value) -> Value:
        total = self.ctx.mpf(0)
        for coefficient in reversed(poly):
            total = total * x + self.ctx.mpf(coefficient.numerator) / coefficient.denominator
        return total

    def real_roots(self, poly: Poly) -> list[Value]:
        poly = square_free(poly)
        if len(poly) < 2:
            return []
        self.budget.charge(20 * len(poly) ** 2)
        ascending = [self.ctx.mpf(c.numerator) / c.denominator for c in poly]
        try:
            roots = _complex_roots(self.ctx, ascending)
        except self.ctx.NoConvergence as error:
            raise TooCostly("roots") from error
        return sorted(
            self.ctx.re(r)
            for r in roots
            if abs(self.ctx.im(r)) < self.ctx.mpf("1e-25") * (1 + abs(r))
        )


def _complex_roots(ctx: Value, ascending: list[Value]) -> list[Value]:
    """mpmath 1.4 wants the lowest power first, and to be told so; 1.3 knows the highest first."""
    options = {"maxsteps": 200, "extraprec": 200}
    if "asc" in inspect.signature(ctx.polyroots).parameters:
        return ctx.polyroots(ascending, asc=True, **options)
    return ctx.polyroots(ascending[::-1], **options)


def _between(ctx: Value, low: Value, high: Value) -> Value:
    if ctx.isinf(low):
        return ctx.mpf(0) if ctx.isinf(high) else high - 1 - abs(high)
    return low + 1 + abs(low) if ctx.isinf(high) else (low + high) / 2


def _union(pieces: Region) -> Region:
    """Sorted, disjoint, and joined where two pieces touch and one holds the point."""
    result: Region = []
    for piece in sorted(pieces, key=lambda p: (p.low, not p.low_closed)):
        last = result[-1] if result else None
        if last and (
            piece.low < last.high
            or (_same(piece.low, last.high) and (piece.low_closed or last.high_closed))
        ):
            if _same(piece.high, last.high):
                high, closed = last.high, last.high_closed or piece.high_closed
            elif piece.high > last.high:
                high, closed = piece.high, piece.high_closed
            else:
                high, closed = last.high, last.high_closed
            result[-1] = Piece(last.low, high, last.low_closed, closed)
        else:
            result.append(piece)
    return result
