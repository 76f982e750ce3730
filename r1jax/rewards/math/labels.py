"""What stands before an answer and may be dropped: x =, f(x) =, area:, AB/BC =, x ∈."""

from __future__ import annotations

from r1jax.rewards.math.nodes import (
    Bound,
    Call,
    Chain,
    Node,
    Ratio,
    Seq,
    Sym,
    Text,
    free_symbols,
    walk,
)

_OF_AN_ANGLE = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_NOT_VARIABLES = frozenset(("pi", "inf", "emptyset", "...", "i"))


def is_label(node: Node) -> bool:
    """Whether `node = value` only names the value. Equations between lower-case variables are
    statements, not labels.
    """
    if isinstance(node, Text):
        return True
    if isinstance(node, Sym):
        return node.name not in _NOT_VARIABLES and not node.name.startswith("set:")
    if isinstance(node, Bound):
        return True
    if isinstance(node, Ratio):
        return all(is_label(part) for part in node.parts)
    if not isinstance(node, Call):
        return False
    if node.name == "apply":
        return isinstance(node.args[0], Sym)
    if node.name in ("abs", "conj") and isinstance(node.args[0], Sym):
        return node.args[0].name in ("z", "w") or _names_a_figure(node)
    if node.name == "/" and all(isinstance(arg, Sym) for arg in node.args):
        return True
    if node.name in _OF_AN_ANGLE:
        return isinstance(node.args[0], Sym | Call) and len(free_symbols(node)) == 1
    if node.name == "/" and all(_is_differential(arg) for arg in node.args):
        return True
    if node.name in ("+", "±"):
        return False
    return _names_a_figure(node)


def is_named_total(node: Node) -> bool:
    """m + n or abc, as questions ask for it. In x, y and z it may as well be a curve's equation."""
    if not isinstance(node, Call) or node.name not in ("+", "*") or len(node.args) > 4:
        return False
    names = [arg.name for arg in node.args if isinstance(arg, Sym) and arg.name not in "xyz"]
    return len(set(names)) == len(node.args)


def _is_differential(node: Node) -> bool:
    return (
        isinstance(node, Call)
        and node.name == "*"
        and node.args[0] == Sym("d")
        and len(node.args) == 2
    )


def _names_a_figure(node: Node) -> bool:
    """Segments, angles, areas, probabilities: products, ratios or functions of capital letters and
    named figures only.
    """
    found = False
    for n in walk(node):
        if isinstance(n, Call) and n.name in ("+", "±", "neg"):
            return False
        if isinstance(n, Sym):
            figure = n.name[:1].isupper() or ":" in n.name
            if not figure and n.name not in ("m", "d"):
                return False
            found = found or figure
        elif not isinstance(n, Call | Text):
            return False
    return found


def split_label(node: Node) -> tuple[Node | None, Node]:
    """(label, value) of `label = value` or `label ∈ value`, or (None, node)."""
    if isinstance(node, Chain) and all(op == "=" for op in _as_equalities(node)):
        if is_label(node.terms[0]):
            return node.terms[0], _rest(node)
        if len(node.terms) == 2 and is_label(node.terms[1]) and not free_symbols(node.terms[0]):
            return node.terms[1], node.terms[0]
    if (
        isinstance(node, Call)
        and node.name == "*"
        and len(node.args) == 2
        and _is_point(*node.args)
    ):
        return node.args
    if isinstance(node, Chain) and node.ops == ("in",) and is_label(node.terms[0]):
        return node.terms[0], node.terms[1]
    return None, node


def _as_equalities(chain: Chain) -> tuple[str, ...]:
    """f(x) ≡ 0 is an equation; a congruence is not."""
    congruent = any(isinstance(term, Call) and term.name == "pmod" for term in chain.terms)
    return chain.ops if congruent else tuple("=" if op == "≡" else op for op in chain.ops)


def _is_point(name: Node, coordinates: Node) -> bool:
    """A(1, 2)"""
    capital = isinstance(name, Sym) and name.name[:1].isupper()
    return capital and isinstance(coordinates, Seq) and coordinates.kind == "tuple"


def _rest(node: Chain) -> Node:
    return node.terms[1] if len(node.terms) == 2 else Chain(node.terms[1:], node.ops[1:])


def labels_agree(left: Node, right: Node) -> bool:
    """The same name; y stands for f(x), and a function may call its argument anything."""
    if left == right or isinstance(left, Text) != isinstance(right, Text):
        return True
    if isinstance(left, Text) and isinstance(right, Text):
        return bool(set(left.words.lower().split()) & set(right.words.lower().split()))
    heads = {_head(left), _head(right)}
    return None not in heads and (len(heads) == 1 or heads == {"y", "f"})


def _head(node: Node) -> str | None:
    if isinstance(node, Sym):
        return node.name if node.name in ("y", "f", "g", "h") else None
    if isinstance(node, Call) and node.name == "apply" and isinstance(node.args[0], Sym):
        name = node.args[0].name
        if name == "_" or len(node.args) != 2 or not isinstance(node.args[1], Sym):
            return None
        return name
    return None


def distribute(items: tuple[Node, ...]) -> list[tuple[Node | None, Node]]:
    """Labels and values of a list; in `n = 2, 3, 4` the one label belongs to all."""
    pairs = [split_label(item) for item in items]
    if len(pairs) > 1 and pairs[0][0] is not None and all(label is None for label, _ in pairs[1:]):
        return [(None, value) for _, value in pairs]
    return pairs


def tuple_assignment(node: Node) -> list[tuple[Node | None, Node]] | None:
    """(x, y) = (1, 2) as labelled values."""
    if isinstance(node, Chain) and node.ops == ("=",):
        left, right = node.terms
        if isinstance(left, Seq) and isinstance(right, Seq) and len(left.items) == len(right.items):
            return list(zip(left.items, right.items, strict=True))
    return None


def rename(node: Node, old: str, new: str) -> Node:
    """`node` with one variable renamed, for functions that differ in the name of their argument."""
    if isinstance(node, Sym):
        return Sym(new) if node.name == old else node
    if isinstance(node, Call):
        return Call(node.name, tuple(rename(arg, old, new) for arg in node.args))
    return node


def argument_name(label: Node | None) -> str | None:
    if (
        isinstance(label, Call)
        and label.name == "apply"
        and len(label.args) == 2
        and isinstance(label.args[1], Sym)
    ):
        return label.args[1].name if label.args[0] != Sym("_") else None
    return None
