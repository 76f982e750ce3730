"""Equality of values with more to them than a number: units, ratios, bases, angles, times, text."""

from __future__ import annotations

from r1jax.rewards.math import units
from r1jax.rewards.math.comparer import Comparer
from r1jax.rewards.math.matrices import is_matrix, unit_vector
from r1jax.rewards.math.nodes import (
    DOTS,
    Based,
    Call,
    Clock,
    Matrix,
    Node,
    Num,
    Quantity,
    Ratio,
    Seq,
    Text,
    free_symbols,
    negate,
    number,
)
from r1jax.rewards.math.scalars import scalars_equal
from r1jax.rewards.math.sequences import items_match, match_collections
from r1jax.rewards.math.words import same_words


def match_texts(gold: Node, pred: Node, c: Comparer) -> bool | None:
    if isinstance(gold, Text) or isinstance(pred, Text):
        return (
            isinstance(gold, Text) and isinstance(pred, Text) and same_words(gold.words, pred.words)
        )
    return None


def match_clocks(gold: Node, pred: Node, c: Comparer) -> bool | None:
    if not (isinstance(gold, Clock) or isinstance(pred, Clock)):
        return None
    a, b = _as_clock(gold), _as_clock(pred)
    if a is None or b is None:
        return False
    if a.half and b.half:
        return _day_time(a) == _day_time(b)
    return (a.minute, a.second) == (b.minute, b.second) and (
        a.hour == b.hour or _day_time(a) == _day_time(b)
    )


def _day_time(clock: Clock) -> tuple[int, int, int]:
    hour = clock.hour % 12 + 12 * (clock.half == "pm") if clock.half else clock.hour
    return hour, clock.minute, clock.second


def _as_clock(node: Node) -> Clock | None:
    """3:45 is read as a ratio unless the other side is a time of day."""
    if isinstance(node, Clock):
        return node
    if (
        isinstance(node, Ratio)
        and len(node.parts) == 2
        and all(isinstance(p, Num) and p.value.denominator == 1 for p in node.parts)
    ):
        hour, minute = (int(p.value) for p in node.parts if isinstance(p, Num))
        return Clock(hour, minute, 0, "") if 0 <= hour < 25 and 0 <= minute < 60 else None
    return None


def match_matrices(gold: Node, pred: Node, c: Comparer) -> bool | None:
    if isinstance(gold, Matrix) or isinstance(pred, Matrix):
        gold, pred = _nested_lists(gold), _nested_lists(pred)
    for node, other, swap in ((gold, pred, False), (pred, gold, True)):
        if isinstance(other, Seq | Matrix):
            size = (
                len(other.items)
                if isinstance(other, Seq)
                else max(len(other.rows), len(other.rows[0]))
            )
            if (vector := unit_vector(node, size)) is not None:
                return c.equal(other, vector) if swap else c.equal(vector, other)
    if not (is_matrix(gold) or is_matrix(pred)):
        return None
    if isinstance(gold, Matrix) and isinstance(pred, Matrix):
        shapes = [(len(m.rows), len(m.rows[0])) for m in (gold, pred)]
        if shapes[0] != shapes[1]:
            return False
        pairs = zip(
            (e for row in gold.rows for e in row),
            (e for row in pred.rows for e in row),
            strict=True,
        )
        return all(c.tolerant(x, y) for x, y in pairs)
    return (
        (match_collections(gold, pred, c) or False)
        if all(isinstance(n, Seq | Matrix) for n in (gold, pred))
        else False
    )


def _nested_lists(node: Node) -> Node:
    """[[1, 2], [3, 4]] as a matrix"""
    rows = node.items if isinstance(node, Seq) and node.kind == "bracket" else ()
    entries = [row.items for row in rows if isinstance(row, Seq) and row.kind == "bracket"]
    square = bool(entries) and len(entries) == len(rows) and len({len(row) for row in entries}) == 1
    return Matrix(tuple(entries)) if square else node


def match_ratios(gold: Node, pred: Node, c: Comparer) -> bool | None:
    if not (isinstance(gold, Ratio) or isinstance(pred, Ratio)):
        return None
    parts = [node.parts if isinstance(node, Ratio) else (node, number(1)) for node in (gold, pred)]
    if len(parts[0]) != len(parts[1]):
        return False
    if any(DOTS in p or number(0) in p for p in parts):
        return items_match(list(parts[0]), list(parts[1]), True, c)
    first = [p[0] for p in parts]
    return all(
        scalars_equal(Call("*", (x, first[1])), Call("*", (y, first[0])), c.budget)
        for x, y in zip(parts[0][1:], parts[1][1:], strict=True)
    )


def match_congruences(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """a (mod m) against b (mod m)"""
    sides = [n for n in (gold, pred) if isinstance(n, Call) and n.name == "pmod"]
    if len(sides) != 2:
        return False if sides else None
    (a, m), (b, n) = sides[0].args, sides[1].args
    if not scalars_equal(m, n, c.budget):
        return False
    return scalars_equal(Call("mod", (a, m)), Call("mod", (b, m)), c.budget)


def match_quantities(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """Convertible units are converted; a missing unit is forgiven, a different dimension is not."""
    if not (isinstance(gold, Quantity) or isinstance(pred, Quantity)):
        return None
    (a, unit_a), (b, unit_b) = _measured(gold), _measured(pred)
    if (_marked(a, "%") is None) != (_marked(b, "%") is None):
        return False
    if not units.compatible(unit_a, unit_b):
        return False
    if bool(unit_a.words) != bool(unit_b.words) and free_symbols(a if unit_a.words else b):
        return False  # "n is odd" is no n
    unnamed = units.unnamed_power(unit_a) or units.unnamed_power(unit_b)
    if bool(unit_a.dims) == bool(unit_b.dims) and not unnamed:
        a, b = _scaled(a, unit_a), _scaled(b, unit_b)
    return c.equal(a, b)


def _measured(node: Node) -> tuple[Node, units.Unit]:
    return (node.value, node.unit) if isinstance(node, Quantity) else (node, units.NONE)


def _scaled(value: Node, unit: units.Unit) -> Node:
    return value if unit.factor == 1 else Call("*", (value, Num(unit.factor)))


def match_numerals(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """Numerals are compared by value; the answer may leave out the base that the gold states."""
    if isinstance(gold, Based) and isinstance(pred, Based):
        if 10 in (gold.base, pred.base):
            return int(gold.digits, gold.base) == int(pred.digits, pred.base)
        return gold.base == pred.base and gold.digits.lstrip("0") == pred.digits.lstrip("0")
    if isinstance(gold, Based) and isinstance(pred, Num) and pred.decimals is None:
        return str(pred.value) == gold.digits or pred.value == int(gold.digits, gold.base)
    return None


def match_degrees(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """An angle in degrees against a bare number: the degree sign may be missing, or the number is
    in radians.
    """
    a, b = (_marked(node, "deg") for node in (gold, pred))
    if (a is None) == (b is None):
        return None
    plain = (a, pred) if a is not None else (gold, b)
    assert plain[0] is not None
    assert plain[1] is not None
    return c.tolerant(plain[0], plain[1]) or scalars_equal(gold, pred, c.budget)


def match_percentages(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """A percentage is its value over 100. The sign may be missing on one side, but a gold below
    one is no percentage that lost it.
    """
    a, b = (_marked(node, "%") for node in (gold, pred))
    if a is None and b is not None and isinstance(gold, Num) and abs(gold.value) >= 1:
        return c.tolerant(gold, b) or scalars_equal(gold, pred, c.budget)
    if a is None or b is not None:
        return None
    return c.tolerant(a, pred) or scalars_equal(gold, pred, c.budget)


def _marked(node: Node, mark: str) -> Node | None:
    sign = isinstance(node, Call) and node.name == "neg"
    inner = node.args[0] if sign and isinstance(node, Call) else node
    if isinstance(inner, Call) and inner.name == mark:
        return negate(inner.args[0]) if sign else inner.args[0]
    return None
