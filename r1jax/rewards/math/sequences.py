"""Equality of lists, sets, tuples and labelled values."""

from __future__ import annotations

from dataclasses import dataclass

from r1jax.rewards.math.comparer import Comparer
from r1jax.rewards.math.labels import (
    distribute,
    split_label,
    tuple_assignment,
)
from r1jax.rewards.math.nodes import (
    DOTS,
    Call,
    Chain,
    Matrix,
    Node,
    Seq,
    Sym,
    TooCostly,
    negate,
)

MAX_ITEMS = 200
MAX_SIGNS = 4  # ± signs that are written out, two values each


@dataclass(frozen=True, slots=True)
class _Items:
    ordered: bool
    labels: list[Node | None]
    values: list[Node]
    kind: str
    statements: list[Node]  # the items with their labels on

    @property
    def named(self) -> bool:
        """Every item has a label of its own, as x = 1, y = 2; x₁ and x₂ are numbers of roots."""
        names = {_plain_label(label) for label in self.labels}
        return None not in names and len(names) == len(self.labels) > 1

    @property
    def alternatives(self) -> bool:
        """All items have one label, as x = 1 or x = 2."""
        names = {_plain_label(label) for label in self.labels}
        return None not in names and len(names) == 1 < len(self.labels)


def _plain_label(label: Node | None) -> Node | None:
    """x for x₁: which root is called which means nothing."""
    indexed = isinstance(label, Call) and label.args[:2] == (Sym("_"), Sym("x"))
    return Sym("x") if indexed else label


def _as_items(node: Node) -> _Items | None:
    if pairs := tuple_assignment(node):
        values = [value for _, value in pairs]
        return _Items(True, [label for label, _ in pairs], values, "tuple", values)
    label, value = split_label(node)
    if label is not None:
        return _as_items(value)
    if node == Sym("emptyset"):
        return _Items(False, [], [], "set", [])
    if isinstance(node, Matrix) and (
        len(node.rows) == 1 or all(len(row) == 1 for row in node.rows)
    ):
        entries = [entry for row in node.rows for entry in row]
        return _Items(True, [None] * len(entries), entries, "vector", entries)
    if isinstance(node, Call) and node.name in ("or", "and"):
        node = Seq("list", node.args)
    if isinstance(node, Call) and node.name == "∪":
        parts = [arg for arg in node.args if isinstance(arg, Seq) and arg.kind == "set"]
        if len(parts) < len(node.args):
            return None
        node = Seq("set", tuple(item for part in parts for item in part.items))
    if not isinstance(node, Seq):
        signed = expand_signs(node)
        if len(signed) < 2:
            return None
        return _Items(False, [None] * len(signed), signed, "list", signed)
    statements = [each for item in node.items for each in expand_signs(item)]
    pairs = distribute(tuple(statements))
    labels, values = [label for label, _ in pairs], [value for _, value in pairs]
    if len(values) > MAX_ITEMS:
        raise TooCostly("too many items")
    ordered = node.kind in ("tuple", "bracket", "vector") or DOTS in values
    return _Items(ordered, labels, values, node.kind, statements)


def expand_signs(node: Node) -> list[Node]:
    """a ± b as its two values; several signs in one expression move together."""
    signs = count_signs(node)
    if not signs:
        return [node]
    if signs > MAX_SIGNS:
        raise TooCostly("too many ± signs")
    return [_with_sign(node, True), _with_sign(node, False)]


def count_signs(node: Node) -> int:
    if isinstance(node, Call):
        return (node.name in ("±", "∓")) + sum(count_signs(arg) for arg in node.args)
    if isinstance(node, Seq) and node.kind == "tuple":
        return sum(map(count_signs, node.items))
    return sum(map(count_signs, node.terms)) if isinstance(node, Chain) else 0


def _with_sign(node: Node, upper: bool) -> Node:
    if isinstance(node, Chain):
        return Chain(tuple(_with_sign(term, upper) for term in node.terms), node.ops)
    if isinstance(node, Seq):
        return Seq(node.kind, tuple(_with_sign(item, upper) for item in node.items))
    if not isinstance(node, Call):
        return node
    args = tuple(_with_sign(arg, upper) for arg in node.args)
    if node.name in ("±", "∓"):
        return Call("+", (args[0], args[1] if (node.name == "±") == upper else negate(args[1])))
    return Call(node.name, args)


def match_collections(gold: Node, pred: Node, c: Comparer) -> bool | None:
    a, b = _as_items(gold), _as_items(pred)
    if a is None and b is None:
        return None
    if a is None or b is None:
        items = b if a is None else a
        assert items is not None
        if len(items.values) != 1 or items.kind not in ("list", "set"):
            return False
        return c.equal(gold, items.values[0]) if a is None else c.equal(items.values[0], pred)
    return _sequences_equal(a, b, c)


def _sequences_equal(a: _Items, b: _Items, c: Comparer) -> bool:
    if (_is_setlike(a) and _is_pointlike(b)) or (_is_setlike(b) and _is_pointlike(a)):
        return False
    kinds = {a.kind, b.kind}
    if len(a.values) == len(b.values) == 2 and "bracket" in kinds and kinds != {"bracket"}:
        return False  # [1, 2] is an interval to some and (1, 2) or 1, 2 is not
    if a.named and b.named:
        return _named_equal(a, b, c)
    left, right = a.values, b.values
    if any(isinstance(value, Chain) for value in (*left, *right)):  # equations, not named values
        left, right = a.statements, b.statements
    ordered = a.ordered or b.ordered or a.named or b.named
    if not ordered:
        left, right = _distinct(left, c), _distinct(right, c)
    return items_match(left, right, ordered, c)


def _is_setlike(items: _Items) -> bool:
    return items.kind == "set" or items.alternatives


def _is_pointlike(items: _Items) -> bool:
    """Values that belong together: a tuple, or one value for each of several names."""
    return items.kind in ("tuple", "bracket", "vector") or items.named


def _named_equal(a: _Items, b: _Items, c: Comparer) -> bool:
    if len(a.values) != len(b.values):
        return False
    theirs = dict(zip(b.labels, b.values, strict=True))
    return all(
        label in theirs and c.tolerant(value, theirs[label])
        for label, value in zip(a.labels, a.values, strict=True)
    )


def items_match(left: list[Node], right: list[Node], ordered: bool, c: Comparer) -> bool:
    if len(left) != len(right):
        return False
    if ordered:
        return all(c.tolerant(x, y) for x, y in zip(left, right, strict=True))
    rest = list(right)
    for item in left:
        at = next((i for i, other in enumerate(rest) if other == item), None)
        if at is None:
            at = next((i for i, other in enumerate(rest) if c.tolerant(item, other)), None)
        if at is None:
            return False
        rest.pop(at)
    return True


def _distinct(values: list[Node], c: Comparer) -> list[Node]:
    found: list[Node] = []
    for value in values:
        if not any(c.tolerant(value, other) for other in found):
            found.append(value)
    return found
