"""Equality of two answers by shape; scalars, equations and sets of reals have their own modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from r1jax.rewards.math import units
from r1jax.rewards.math.equations import (
    equations_equal,
    inequalities_equal,
    is_symmetric,
    normal_direction,
)
from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.labels import (
    argument_name,
    distribute,
    labels_agree,
    rename,
    split_label,
    tuple_assignment,
)
from r1jax.rewards.math.matrices import is_matrix, reduce_matrix, unit_vector
from r1jax.rewards.math.nodes import (
    DOTS,
    Based,
    Builder,
    Call,
    Chain,
    Clock,
    Interval,
    Matrix,
    Node,
    Num,
    Quantity,
    Ratio,
    Seq,
    Sym,
    Text,
    TooCostly,
    Undefined,
    free_symbols,
    negate,
    number,
)
from r1jax.rewards.math.regions import (
    as_interval,
    is_regional,
    is_setlike,
    region_variable,
    regions_equal,
)
from r1jax.rewards.math.scalars import scalars_equal
from r1jax.rewards.math.words import same_words

MAX_ITEMS = 200
MAX_SIGNS = 4  # ± signs that are written out, two values each


def answers_equal(gold: Node, pred: Node, budget: Budget) -> bool:
    """Whether the two answers are the same. Raises `TooCostly` or `Undefined` if that cannot be
    told.
    """
    budget.charge()
    if gold == pred:
        return True
    gold, pred = reduce_matrix(gold), reduce_matrix(pred)
    for handle in _HANDLERS:
        verdict = handle(gold, pred, budget)
        if verdict is not None:
            return verdict
    return scalars_equal(gold, pred, budget)


# Each handler takes the pairs of its shape and returns None for others. The order is from the
# outside in.


def _approximations(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """`exact ≈ decimal` is the exact value, and its own decimal where that was copied."""
    for node, other, swap in ((gold, pred, False), (pred, gold, True)):
        if isinstance(node, Chain) and "≈" in node.ops:
            at = len(node.ops) - 1 - node.ops[::-1].index("≈")
            exact = node.terms[0] if at == 0 else Chain(node.terms[: at + 1], node.ops[:at])
            candidates = [exact, node.terms[at + 1]]
            if isinstance(other, Chain) and "≈" in other.ops:
                candidates = candidates[:1]
            elif swap and not _rounds_to(node.terms[at], node.terms[at + 1], budget):
                return False
            if at == 0 and isinstance(exact, Sym):
                candidates = candidates[1:]
            return any(
                _tolerant(other, c, budget) if swap else _tolerant(c, other, budget)
                for c in candidates
            )
    return None


def _rounds_to(exact: Node, decimal: Node, budget: Budget) -> bool:
    """Whether a stated approximation is one, so that no second value is smuggled in behind the
    sign.
    """
    if isinstance(exact, Sym | Text) or not isinstance(decimal, Num):
        return True
    half_unit = number(1).value / 10 ** (decimal.decimals or 0)
    off = Call(
        "floor", (Call("/", (Call("abs", (Call("+", (exact, negate(decimal))),)), Num(half_unit))),)
    )
    return _tolerant(off, number(0), budget)


def _tolerant(gold: Node, pred: Node, budget: Budget) -> bool:
    try:
        return answers_equal(gold, pred, budget)
    except Undefined:
        return False


def _signed_statements(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """y = ±2x is two equations."""
    if not any(isinstance(node, Chain) and _count_signs(node) for node in (gold, pred)):
        return None
    sides = [
        Seq("list", tuple(expand_signs(node))) if isinstance(node, Chain) else node
        for node in (gold, pred)
    ]
    return answers_equal(sides[0], sides[1], budget)


def _parameter_domains(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """kπ, k ∈ ℤ: the domain of a parameter may be left out by one side."""
    (a, gold_domains), (b, pred_domains) = _split_domains(gold), _split_domains(pred)
    if bool(gold_domains) == bool(pred_domains):
        return None
    return answers_equal(a, b, budget)


def _split_domains(node: Node) -> tuple[Node, list[Node]]:
    if not isinstance(node, Seq) or node.kind != "list":
        return node, []
    domains = [item for item in node.items if _is_domain(item)]
    rest = tuple(item for item in node.items if not _is_domain(item))
    if not domains or not rest:
        return node, []
    return rest[0] if len(rest) == 1 else Seq("list", rest), domains


def _is_domain(node: Node) -> bool:
    """k ∈ ℤ"""
    if not isinstance(node, Chain) or node.ops != ("in",):
        return False
    where = node.terms[1]
    return isinstance(where, Sym) and where.name.startswith("set:")


def _texts(gold: Node, pred: Node, budget: Budget) -> bool | None:
    if isinstance(gold, Text) or isinstance(pred, Text):
        return (
            isinstance(gold, Text) and isinstance(pred, Text) and same_words(gold.words, pred.words)
        )
    return None


def _clocks(gold: Node, pred: Node, budget: Budget) -> bool | None:
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


def _labels(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """Labels are dropped unless both sides have one; then they, or the equations, must agree."""
    if is_regional(gold) or is_regional(pred):
        return None
    (gold_label, gold_value), (pred_label, pred_value) = split_label(gold), split_label(pred)
    if gold_label is None and pred_label is None:
        return None
    if gold_label is None or pred_label is None:
        other, value = (gold, pred_value) if gold_label is None else (pred, gold_value)
        if isinstance(other, Chain):
            return None
        return (
            answers_equal(gold, value, budget)
            if gold_label is None
            else answers_equal(value, pred, budget)
        )
    if labels_agree(gold_label, pred_label):
        names = argument_name(gold_label), argument_name(pred_label)
        if (
            names[0]
            and names[1]
            and names[0] != names[1]
            and names[0] not in free_symbols(pred_value)
        ):
            pred_value = rename(pred_value, names[1], names[0])
        return answers_equal(gold_value, pred_value, budget)
    return None


def _regions(gold: Node, pred: Node, budget: Budget) -> bool | None:
    if not (is_regional(gold) or is_regional(pred)):
        return None
    gold, pred = (Sym("set:R") if node == Sym("R") else node for node in (gold, pred))
    if not (_region_side(gold) and _region_side(pred)):
        return _chains(gold, pred, budget)
    names = {region_variable(gold), region_variable(pred)} - {None}
    if len(names) > 1 and isinstance(gold, Chain) and isinstance(pred, Chain):
        return _chains(gold, pred, budget)
    try:
        return regions_equal(_unlabelled_set(gold), _unlabelled_set(pred), budget)
    except Undefined:
        pass
    a, b = as_interval(gold), as_interval(pred)
    if a is not None and b is not None:
        same_ends = (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        return same_ends and _tolerant(a.low, b.low, budget) and _tolerant(a.high, b.high, budget)
    return _chains(gold, pred, budget)


def _region_side(node: Node) -> bool:
    return is_regional(node) or is_setlike(_unlabelled_set(node))


def _unlabelled_set(node: Node) -> Node:
    label, value = split_label(node)
    return value if label is not None and is_setlike(value) else node


def _chains(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """Relations that are no sets of reals: equations, inequalities with parameters, statements
    about figures.
    """
    if isinstance(gold, Builder) and isinstance(pred, Builder):
        return _tolerant(gold.element, pred.element, budget) and _tolerant(
            gold.condition, pred.condition, budget
        )
    if (
        isinstance(gold, Call)
        and isinstance(pred, Call)
        and gold.name == pred.name in ("∪", "∩", "\\", "or", "and")
    ):
        return _items_match(list(gold.args), list(pred.args), gold.name == "\\", budget)
    if not (isinstance(gold, Chain) and isinstance(pred, Chain)):
        if isinstance(gold, Chain) or isinstance(pred, Chain):
            return _closed_chain(gold, pred, budget)
        return False if is_regional(gold) or is_regional(pred) else None
    if set(gold.ops) == set(pred.ops) == {"="} and len(gold.ops) == len(pred.ops) == 1:
        if equations_equal(gold, pred, budget):
            return True
    elif inequalities_equal(gold, pred, budget):
        return True
    gold, pred = normal_direction(gold), normal_direction(pred)
    if gold.ops != pred.ops or len(gold.terms) != len(pred.terms):
        return False
    if _terms_equal(gold.terms, pred.terms, budget):
        return True
    return all(map(is_symmetric, gold.ops)) and _terms_equal(gold.terms, pred.terms[::-1], budget)


def _terms_equal(gold: tuple[Node, ...], pred: tuple[Node, ...], budget: Budget) -> bool:
    return all(_tolerant(a, b, budget) for a, b in zip(gold, pred, strict=True))


def _closed_chain(gold: Node, pred: Node, budget: Budget) -> bool:
    """2 + 3 = 5 stands for 5 if it is true."""
    chain, other, swap = (gold, pred, False) if isinstance(gold, Chain) else (pred, gold, True)
    assert isinstance(chain, Chain)
    if set(chain.ops) != {"="}:
        return False
    *steps, last = chain.terms
    if not all(_tolerant(step, last, budget) for step in steps):
        return False
    return answers_equal(other, last, budget) if swap else answers_equal(last, other, budget)


# collections


@dataclass(frozen=True, slots=True)
class _Items:
    ordered: bool
    labels: list[Node | None]
    values: list[Node]
    kind: str
    statements: list[Node]  # the items with their labels on

    @property
    def labelled(self) -> bool:
        """Every item has a label of its own."""
        return (
            None not in self.labels and len({str(x) for x in self.labels}) == len(self.labels) > 1
        )

    @property
    def numbered_roots(self) -> bool:
        """x₁ = …, x₂ = …: which root is called which means nothing."""
        root = (Sym("_"), Sym("x"))
        return all(isinstance(label, Call) and label.args[:2] == root for label in self.labels)


def _as_items(node: Node) -> _Items | None:
    if pairs := tuple_assignment(node):
        values = [value for _, value in pairs]
        return _Items(True, [label for label, _ in pairs], values, "list", values)
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
    signs = _count_signs(node)
    if not signs:
        return [node]
    if signs > MAX_SIGNS:
        raise TooCostly("too many ± signs")
    return [_with_sign(node, True), _with_sign(node, False)]


def _count_signs(node: Node) -> int:
    if isinstance(node, Call):
        return (node.name in ("±", "∓")) + sum(_count_signs(arg) for arg in node.args)
    if isinstance(node, Seq) and node.kind == "tuple":
        return sum(map(_count_signs, node.items))
    return sum(map(_count_signs, node.terms)) if isinstance(node, Chain) else 0


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


def _collections(gold: Node, pred: Node, budget: Budget) -> bool | None:
    a, b = _as_items(gold), _as_items(pred)
    if a is None and b is None:
        return None
    if a is None or b is None:
        items = b if a is None else a
        assert items is not None
        if len(items.values) != 1 or items.kind not in ("list", "set"):
            return False
        return (
            answers_equal(gold, items.values[0], budget)
            if a is None
            else answers_equal(items.values[0], pred, budget)
        )
    return _sequences_equal(a, b, budget)


def _sequences_equal(a: _Items, b: _Items, budget: Budget) -> bool:
    kinds = {a.kind, b.kind}
    if "set" in kinds and kinds & {"tuple", "bracket", "vector"}:
        return False
    if len(a.values) == len(b.values) == 2 and kinds & {"bracket"} and kinds != {"bracket"}:
        return False  # [1, 2] is an interval to some and (1, 2) or 1, 2 is not
    if a.labelled and b.labelled:
        return _labelled_equal(a, b, budget)
    left, right = a.values, b.values
    if any(isinstance(value, Chain) for value in (*left, *right)):  # equations, not labelled values
        left, right = a.statements, b.statements
    ordered = a.ordered or b.ordered or (a.labelled and not a.numbered_roots)
    if not ordered:
        left, right = _distinct(left, budget), _distinct(right, budget)
    return _items_match(left, right, ordered, budget)


def _labelled_equal(a: _Items, b: _Items, budget: Budget) -> bool:
    if len(a.values) != len(b.values):
        return False
    theirs = {str(label): value for label, value in zip(b.labels, b.values, strict=True)}
    for label, value in zip(a.labels, a.values, strict=True):
        if str(label) not in theirs or not _tolerant(value, theirs[str(label)], budget):
            return False
    return True


def _items_match(left: list[Node], right: list[Node], ordered: bool, budget: Budget) -> bool:
    if len(left) != len(right):
        return False
    if ordered:
        return all(_tolerant(x, y, budget) for x, y in zip(left, right, strict=True))
    rest = list(right)
    for item in left:
        at = next((i for i, other in enumerate(rest) if other == item), None)
        if at is None:
            at = next((i for i, other in enumerate(rest) if _tolerant(item, other, budget)), None)
        if at is None:
            return False
        rest.pop(at)
    return True


def _distinct(values: list[Node], budget: Budget) -> list[Node]:
    found: list[Node] = []
    for value in values:
        if not any(_tolerant(value, other, budget) for other in found):
            found.append(value)
    return found


# single values with more to them than a number


def _matrices(gold: Node, pred: Node, budget: Budget) -> bool | None:
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
                return (
                    answers_equal(other, vector, budget)
                    if swap
                    else answers_equal(vector, other, budget)
                )
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
        return all(_tolerant(x, y, budget) for x, y in pairs)
    return (
        (_collections(gold, pred, budget) or False)
        if all(isinstance(n, Seq | Matrix) for n in (gold, pred))
        else False
    )


def _nested_lists(node: Node) -> Node:
    """[[1, 2], [3, 4]] as a matrix"""
    rows = node.items if isinstance(node, Seq) and node.kind == "bracket" else ()
    entries = [row.items for row in rows if isinstance(row, Seq) and row.kind == "bracket"]
    square = bool(entries) and len(entries) == len(rows) and len({len(row) for row in entries}) == 1
    return Matrix(tuple(entries)) if square else node


def _ratios(gold: Node, pred: Node, budget: Budget) -> bool | None:
    if not (isinstance(gold, Ratio) or isinstance(pred, Ratio)):
        return None
    parts = [node.parts if isinstance(node, Ratio) else (node, number(1)) for node in (gold, pred)]
    if len(parts[0]) != len(parts[1]):
        return False
    if any(DOTS in p for p in parts):
        return _items_match(list(parts[0]), list(parts[1]), True, budget)
    first = [p[0] for p in parts]
    return all(
        scalars_equal(Call("*", (x, first[1])), Call("*", (y, first[0])), budget)
        for x, y in zip(parts[0][1:], parts[1][1:], strict=True)
    )


def _congruences(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """a (mod m) against b (mod m)"""
    sides = [n for n in (gold, pred) if isinstance(n, Call) and n.name == "pmod"]
    if len(sides) != 2:
        return False if sides else None
    (a, m), (b, n) = sides[0].args, sides[1].args
    if not scalars_equal(m, n, budget):
        return False
    return scalars_equal(Call("mod", (a, m)), Call("mod", (b, m)), budget)


def _quantities(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """Convertible units are converted; a missing unit is forgiven, a different dimension is not."""
    if not (isinstance(gold, Quantity) or isinstance(pred, Quantity)):
        return None
    (a, unit_a), (b, unit_b) = _measured(gold), _measured(pred)
    if not units.compatible(unit_a, unit_b):
        return False
    if bool(unit_a.words) != bool(unit_b.words) and free_symbols(a if unit_a.words else b):
        return False  # "n is odd" is no n
    if bool(unit_a.dims) == bool(unit_b.dims) or not (unit_a.dims or unit_b.dims):
        a, b = _scaled(a, unit_a), _scaled(b, unit_b)
    return answers_equal(a, b, budget)


def _measured(node: Node) -> tuple[Node, units.Unit]:
    return (node.value, node.unit) if isinstance(node, Quantity) else (node, units.NONE)


def _scaled(value: Node, unit: units.Unit) -> Node:
    return value if unit.factor == 1 else Call("*", (value, Num(unit.factor)))


def _based(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """Numerals are compared by value; the answer may leave out the base that the gold states."""
    if isinstance(gold, Based) and isinstance(pred, Based):
        if 10 in (gold.base, pred.base):
            return int(gold.digits, gold.base) == int(pred.digits, pred.base)
        return gold.base == pred.base and gold.digits.lstrip("0") == pred.digits.lstrip("0")
    if isinstance(gold, Based) and isinstance(pred, Num) and pred.decimals is None:
        return str(pred.value) == gold.digits or pred.value == int(gold.digits, gold.base)
    return None


def _degrees(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """An angle in degrees against a bare number: the degree sign may be missing, or the number is
    in radians.
    """
    a, b = (_marked(node, "deg") for node in (gold, pred))
    if (a is None) == (b is None):
        return None
    plain = (a, pred) if a is not None else (gold, b)
    assert plain[0] is not None
    assert plain[1] is not None
    return _tolerant(plain[0], plain[1], budget) or scalars_equal(gold, pred, budget)


def _percentages(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """A percentage is its value over 100. The sign may be missing on one side, but a gold below
    one is no percentage that lost it.
    """
    a, b = (_marked(node, "%") for node in (gold, pred))
    if a is None and b is not None and isinstance(gold, Num) and abs(gold.value) >= 1:
        return _tolerant(gold, b, budget) or scalars_equal(gold, pred, budget)
    if a is None or b is not None:
        return None
    return _tolerant(a, pred, budget) or scalars_equal(gold, pred, budget)


def _marked(node: Node, mark: str) -> Node | None:
    sign = isinstance(node, Call) and node.name == "neg"
    inner = node.args[0] if sign and isinstance(node, Call) else node
    if isinstance(inner, Call) and inner.name == mark:
        return negate(inner.args[0]) if sign else inner.args[0]
    return None


def _special(gold: Node, pred: Node, budget: Budget) -> bool | None:
    """Shapes without a value, once every rule for them has passed: equal only if identical."""
    for node in (gold, pred):
        if isinstance(node, Interval | Builder | Chain | Seq | Matrix | Clock):
            return False
        if isinstance(node, Sym) and (node == DOTS or node.name.startswith("set:")):
            return False
    return None


_HANDLERS: tuple[Callable[[Node, Node, Budget], bool | None], ...] = (
    _approximations,
    _parameter_domains,
    _signed_statements,
    _texts,
    _clocks,
    _labels,
    _regions,
    _matrices,
    _collections,
    _chains,
    _ratios,
    _congruences,
    _quantities,
    _based,
    _degrees,
    _percentages,
    _special,
)
