"""The closed set of values that an answer can be, as immutable nodes.

One node type for everything with a number behind it (`Call`, by operator name), and one type each
for the shapes that are compared by structure: sequences, intervals, relation chains, set builders,
matrices, ratios, quantities, clocks, text. Building a node computes nothing, so no input can make
construction expensive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


class Unparsable(ValueError):
    """The text is outside the grammar or over a size limit."""


class TooCostly(ValueError):
    """A static bound says that evaluating this would cost too much."""


class OutOfRange(TooCostly):
    """A floating value too large or too small to be worth having."""


class Undefined(ValueError):
    """No value here: a pole, a set where a number is needed, a missing variable."""


@dataclass(frozen=True, slots=True)
class Num:
    """A literal. `decimals` counts the printed decimals and is None for integers and vulgar
    fractions.
    """

    value: Fraction
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Sym:
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator, a known function, or (`name` "apply") an unknown one applied to arguments."""

    name: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """sum, prod, int or lim over `var`; `high` is None for a limit."""

    kind: str
    body: Node
    var: str
    low: Node
    high: Node | None = None


@dataclass(frozen=True, slots=True)
class Seq:
    """kind: "list" (bare commas, unordered), "set", "tuple" (round), "bracket" (square), "vector"
    (angle).
    """

    kind: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    low: Node
    high: Node
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """terms[0] ops[0] terms[1] ops[1] ...: an equation, an inequality, a membership, or a longer
    chain.
    """

    terms: tuple[Node, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Builder:
    """{element | condition}"""

    element: Node
    condition: Node


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Based:
    """Digits written in a stated base."""

    digits: str
    base: int

    def __post_init__(self) -> None:
        if any(int(digit, 36) >= self.base for digit in self.digits):
            raise Unparsable(f"{self.digits} is no numeral of base {self.base}")


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; `half` is "am", "pm" or "" where it was not said."""

    hour: int
    minute: int
    second: int
    half: str


@dataclass(frozen=True, slots=True)
class Unit:
    """`dims` are base dimensions with their powers, `factor` the size in base units, `words` what
    is not in the table.
    """

    dims: tuple[tuple[str, int], ...]
    factor: Fraction
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantity:
    value: Node
    unit: Unit


@dataclass(frozen=True, slots=True)
class Text:
    words: str


_Scalar = Num | Sym | Call | Bound | Based
_Shape = Seq | Interval | Chain | Builder | Matrix | Ratio | Clock | Quantity | Text
Node = _Scalar | _Shape

ZERO = Num(Fraction(0))
ONE = Num(Fraction(1))
DOTS = Sym("...")
CONSTANTS = frozenset({"pi", "e", "i", "inf"})


def number(value: int | Fraction) -> Num:
    return Num(Fraction(value))


def negate(node: Node) -> Node:
    if isinstance(node, Num):
        return Num(-node.value, node.decimals)
    return Call("neg", (node,))


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Call(args=args):
            return args
        case Bound(body=body, low=low, high=high):
            return (body, low) if high is None else (body, low, high)
        case Seq(items=items):
            return items
        case Interval(low=low, high=high):
            return (low, high)
        case Chain(terms=terms):
            return terms
        case Builder(element=element, condition=condition):
            return (element, condition)
        case Matrix(rows=rows):
            return tuple(entry for row in rows for entry in row)
        case Ratio(parts=parts):
            return parts
        case Quantity(value=value):
            return (value,)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """Every node below and including this one; iterative, so depth costs nothing."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(children(top))


def free_symbols(node: Node) -> frozenset[str]:
    """Variable names; not constants, number sets, bound variables or names of functions."""
    names: set[str] = set()
    bound: set[str] = set()
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, Sym):
            names.add(top.name)
        elif isinstance(top, Bound) and top.kind != "diff":
            bound.add(top.var)
        stack.extend(_arguments(top))
    return frozenset(n for n in names - bound if n not in CONSTANTS and not n.startswith("set:"))


def is_deeper_than(node: Node, limit: int) -> bool:
    """Whether some path from the root is longer; hashing, comparing and evaluating recurse."""
    stack = [(node, 1)]
    while stack:
        top, depth = stack.pop()
        if depth > limit:
            return True
        stack.extend((child, depth + 1) for child in children(top))
    return False


def _arguments(node: Node) -> tuple[Node, ...]:
    """The children that hold values: f(x) has x, and a_n has n."""
    if isinstance(node, Call) and node.name == "apply" and isinstance(node.args[0], Sym):
        subscripted = node.args[0].name == "_" and isinstance(node.args[1], Sym)
        return node.args[2:] if subscripted else node.args[1:]
    return children(node)
