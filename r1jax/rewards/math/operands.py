"""Literals, letters and words where an operand may stand."""

from __future__ import annotations

from r1jax.rewards.math import units
from r1jax.rewards.math.cursor import UNIT, Cursor, items_of
from r1jax.rewards.math.nodes import Call, Node, Num, Sym, Text, number
from r1jax.rewards.math.suffixes import make_quantity, unit_factors
from r1jax.rewards.math.tokens import Token


def mixed(p: Cursor, token: Token) -> Node:
    """A literal; an integer directly before a fraction of integers is a mixed number."""
    assert token.value is not None
    value = Num(token.value, token.decimals)
    if token.decimals is not None or token.value.denominator != 1:
        return value
    start = p.pos
    if p.at("cmd", "frac"):
        p.take()
        top, bottom = p.argument(), p.argument()
    elif (
        p.peek().kind == "num"
        and p.peek().spaced
        and p.peek(1).text == "/"
        and p.peek(2).kind == "num"
    ):
        top, bottom = (p.argument(), p.take() and p.argument())
    else:
        return value
    if isinstance(top, Num) and isinstance(bottom, Num) and bottom.value and not p.at("op", "^"):
        parts = (top.value, bottom.value)
        if all(p.denominator == 1 and p >= 0 for p in parts):
            return Num(token.value + parts[0] / parts[1])
    p.pos = start
    return value


def symbol(p: Cursor, name: str) -> Node:
    """A letter; f(…), C(n, k) and P(n, k) are applications, other letters before a bracket are
    factors.
    """
    while p.at("op", "'"):
        p.take()
        name += "'"
    if (
        name[0] in "fgh"
        and p.at("op", "^")
        and p.peek(1).text == "{"
        and p.peek(2).text == "-"
        and p.peek(5).text == "("
    ):
        p.pos += 5
        name += "^-1"
    if p.at("open", "(") and (
        (name.rstrip("'")[:1] in ("f", "g", "h") and len(name) < 5) or _defines(p)
    ):
        p.take()
        return Call("apply", (Sym(name), *items_of(p.group("("))))
    index = p.peek()
    if index.kind == "num" and not index.spaced and p.peek(1).text != "^" and index.text.isdigit():
        p.take()  # x1 for x with index 1
        return Call("apply", (Sym("_"), Sym(name), number(int(index.text))))
    if p.at("open", "(") and name in ("C", "P"):
        start = p.pos
        p.take()
        arguments = items_of(p.group("("))
        if len(arguments) == 2 and not _is_point(name, arguments):
            return Call("binom" if name == "C" else "perm", arguments)
        p.pos = start
    return Sym(name)


def _defines(p: Cursor) -> bool:
    """Whether the bracket ahead closes right before an equals sign, and its letter starts the
    expression: x(t) = …
    """
    if p.pos > 1 and p.tokens[p.pos - 2].text not in (",", ";", "and", "or"):
        return False
    depth = 0
    for at in range(p.pos, min(len(p.tokens), p.pos + 40)):
        depth += (p.tokens[at].kind == "open") - (p.tokens[at].kind == "close")
        if depth == 0:
            return at + 1 < len(p.tokens) and p.tokens[at + 1].text == "="
    return False


def words(p: Cursor, first: str) -> Node:
    """Prose before a value: a currency sign, or a label."""
    signed = units.is_money(first) and (p.at("op", "-") or p.at("cmd"))
    if units.is_known(first) and (p.at("num") or signed):
        value = p.expr(UNIT)
        factors = unit_factors(p)
        return make_quantity(
            value,
            factors
            if any(units.is_known(f[0]) for f in factors if f[0] not in units.SCALES)
            else [(first, 1), *factors],
        )
    parts = [first]
    while p.peek().kind in ("text", "upright") or (
        p.at("op", "of", "in", "to") and p.peek(1).kind == "text"
    ):
        parts.append(p.take().text)
    if p.at("open", "(") and _defines(p):  # Var(X) = …
        p.group(p.take().text)
    return Text(" ".join(parts))


def _is_point(name: str, arguments: tuple[Node, ...]) -> bool:
    """P(3, 4) is no number of arrangements."""
    n, k = arguments
    return name == "P" and isinstance(n, Num) and isinstance(k, Num) and n.value < k.value
