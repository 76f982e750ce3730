"""Equality of statements: labels, approximations, equations, inequalities, sets of reals."""

from __future__ import annotations

from r1jax.rewards.math.comparer import Comparer
from r1jax.rewards.math.equations import (
    agree_below_zero,
    equations_equal,
    inequalities_equal,
    is_symmetric,
    normal_direction,
)
from r1jax.rewards.math.labels import (
    argument_name,
    is_named_total,
    labels_agree,
    rename,
    split_label,
)
from r1jax.rewards.math.nodes import (
    Builder,
    Call,
    Chain,
    Node,
    Num,
    Seq,
    Sym,
    Text,
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
    region_variables,
    regions_equal,
)
from r1jax.rewards.math.sequences import count_signs, expand_signs, items_match


def match_approximations(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """`exact ≈ decimal` is the exact value, and its own decimal where that was copied."""
    for node, other, swap in ((gold, pred, False), (pred, gold, True)):
        if isinstance(node, Chain) and "≈" in node.ops:
            at = len(node.ops) - 1 - node.ops[::-1].index("≈")
            exact = node.terms[0] if at == 0 else Chain(node.terms[: at + 1], node.ops[:at])
            candidates = [exact, node.terms[at + 1]]
            if isinstance(other, Chain) and "≈" in other.ops:
                candidates = candidates[:1]
            elif swap and not _rounds_to(node.terms[at], node.terms[at + 1], c):
                return False
            if at == 0 and isinstance(exact, Sym):
                candidates = candidates[1:]
            return any(
                c.tolerant(other, each) if swap else c.tolerant(each, other) for each in candidates
            )
    return None


def _rounds_to(exact: Node, decimal: Node, c: Comparer) -> bool:
    """Whether a stated approximation is one, so that no second value is smuggled in behind the
    sign.
    """
    if isinstance(exact, Sym | Text) or not isinstance(decimal, Num):
        return True
    half_unit = number(1).value / 10 ** (decimal.decimals or 0)
    off = Call(
        "floor", (Call("/", (Call("abs", (Call("+", (exact, negate(decimal))),)), Num(half_unit))),)
    )
    return c.tolerant(off, number(0))


def match_domains(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """kπ, k ∈ ℤ: the domain of a parameter may be left out by one side."""
    (a, gold_domains), (b, pred_domains) = _split_domains(gold), _split_domains(pred)
    if bool(gold_domains) == bool(pred_domains):
        return None
    return c.equal(a, b)


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


def match_signs(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """y = ±2x is two equations."""
    if not any(isinstance(node, Chain) and count_signs(node) for node in (gold, pred)):
        return None
    sides = [
        Seq("list", tuple(expand_signs(node))) if isinstance(node, Chain) else node
        for node in (gold, pred)
    ]
    return c.equal(sides[0], sides[1])


def match_labels(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """Labels are dropped unless both sides have one; then they, or the equations, must agree."""
    if is_regional(gold) or is_regional(pred):
        return None
    (gold_label, gold_value), (pred_label, pred_value) = split_label(gold), split_label(pred)
    if gold_label is None and pred_label is None:
        return _match_total(gold, pred, c)
    if gold_label is None or pred_label is None:
        other, value = (gold, pred_value) if gold_label is None else (pred, gold_value)
        if isinstance(other, Chain):
            return None
        return c.equal(gold, value) if gold_label is None else c.equal(value, pred)
    if labels_agree(gold_label, pred_label):
        names = argument_name(gold_label), argument_name(pred_label)
        if (
            names[0]
            and names[1]
            and names[0] != names[1]
            and names[0] not in free_symbols(pred_value)
        ):
            pred_value = rename(pred_value, names[1], names[0])
        return c.equal(gold_value, pred_value)
    return None


def _match_total(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """m + n = 113 for a gold of 113; a gold that is an equation is more than its right side."""
    if not isinstance(pred, Chain) or pred.ops != ("=",) or not isinstance(gold, Num):
        return None
    return c.equal(gold, pred.terms[1]) if is_named_total(pred.terms[0]) else None


def match_regions(gold: Node, pred: Node, c: Comparer) -> bool | None:
    if not (is_regional(gold) or is_regional(pred)):
        return None
    gold, pred = (Sym("set:R") if node == Sym("R") else node for node in (gold, pred))
    if any(len(region_variables(node)) > 1 for node in (gold, pred)):
        return _match_conditions(gold, pred, c)
    if not (_region_side(gold) and _region_side(pred)):
        return match_chains(gold, pred, c)
    names = {region_variable(gold), region_variable(pred)} - {None}
    if len(names) > 1 and isinstance(gold, Chain) and isinstance(pred, Chain):
        return match_chains(gold, pred, c)
    try:
        return regions_equal(_unlabelled_set(gold), _unlabelled_set(pred), c.budget)
    except Undefined:
        pass
    a, b = as_interval(gold), as_interval(pred)
    if a is not None and b is not None:
        same_ends = (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        return same_ends and c.tolerant(a.low, b.low) and c.tolerant(a.high, b.high)
    return match_chains(gold, pred, c)


def _match_conditions(gold: Node, pred: Node, c: Comparer) -> bool:
    """x > 0 and y > 0 is no set of reals: each condition has its like on the other side."""
    sides = []
    for node in (gold, pred):
        parts = node.args if isinstance(node, Call) else (node,)
        parts = node.items if isinstance(node, Seq) else parts
        sides.append((isinstance(node, Call) and node.name == "or", list(parts)))
    (gold_is_or, wanted), (pred_is_or, given) = sides
    return gold_is_or == pred_is_or and items_match(wanted, given, False, c)


def _region_side(node: Node) -> bool:
    return is_regional(node) or is_setlike(_unlabelled_set(node))


def _unlabelled_set(node: Node) -> Node:
    label, value = split_label(node)
    return value if label is not None and is_setlike(value) else node


def match_chains(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """Relations that are no sets of reals: equations, inequalities with parameters, statements
    about figures.
    """
    if isinstance(gold, Builder) and isinstance(pred, Builder):
        return c.tolerant(gold.element, pred.element) and c.tolerant(gold.condition, pred.condition)
    if (
        isinstance(gold, Call)
        and isinstance(pred, Call)
        and gold.name == pred.name in ("∪", "∩", "\\", "or", "and")
    ):
        return items_match(list(gold.args), list(pred.args), gold.name == "\\", c)
    if not (isinstance(gold, Chain) and isinstance(pred, Chain)):
        if isinstance(gold, Chain) or isinstance(pred, Chain):
            return _closed_chain(gold, pred, c)
        return False if is_regional(gold) or is_regional(pred) else None
    if set(gold.ops) == set(pred.ops) == {"="} and len(gold.ops) == len(pred.ops) == 1:
        if not agree_below_zero(gold, pred, c.budget):
            return False
        if equations_equal(gold, pred, c.budget):
            return True
    elif inequalities_equal(gold, pred, c.budget):
        return True
    gold, pred = normal_direction(gold), normal_direction(pred)
    if gold.ops != pred.ops or len(gold.terms) != len(pred.terms):
        return False
    if _terms_equal(gold.terms, pred.terms, c):
        return True
    return all(map(is_symmetric, gold.ops)) and _terms_equal(gold.terms, pred.terms[::-1], c)


def _terms_equal(gold: tuple[Node, ...], pred: tuple[Node, ...], c: Comparer) -> bool:
    return all(c.tolerant(a, b) for a, b in zip(gold, pred, strict=True))


def _closed_chain(gold: Node, pred: Node, c: Comparer) -> bool:
    """2 + 3 = 5 stands for 5 if it is true."""
    chain, other, swap = (gold, pred, False) if isinstance(gold, Chain) else (pred, gold, True)
    assert isinstance(chain, Chain)
    if set(chain.ops) != {"="}:
        return False
    *steps, last = chain.terms
    if not all(c.tolerant(step, last) for step in steps):
        return False
    return c.equal(other, last) if swap else c.equal(last, other)
