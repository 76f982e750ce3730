"""Everything between brackets: groups, tuples, intervals, sets, absolute values."""

from __future__ import annotations

from r1jax.rewards.math.cursor import Cursor, items_of
from r1jax.rewards.math.nodes import Builder, Call, Chain, Interval, Node, Seq, Sym, Unparsable


def fenced(p: Cursor, fence: str) -> Node:
    """|x|, ⌊x⌋, ⌈x⌉ and ⟨a, b⟩"""
    p.fences.append(fence)
    inner = p.sequence()
    p.fences.pop()
    if not (p.at("close", fence) or p.at("op", fence)):
        raise Unparsable(f"unclosed {fence}")
    p.take()
    if fence == "<":
        return Seq("vector", items_of(inner))
    return Call("abs" if fence == "|" else fence, (inner,))


def bracketed(p: Cursor, opener: str) -> Node:
    p.fences.append(opener)
    inner = p.sequence()
    p.fences.pop()
    token = p.take()
    if token.text not in (")", "]", "[") or (token.text == "[" and opener == "("):
        raise Unparsable("unclosed bracket")
    pair = opener + token.text
    items = inner.items if isinstance(inner, Seq) and inner.kind == "list" else None
    if items is None:
        if pair not in ("()", "[]"):
            raise Unparsable("one-ended interval")
        return inner
    if pair in ("()", "[]"):
        return Seq("tuple" if pair == "()" else "bracket", items)
    if len(items) != 2:
        raise Unparsable("an interval has two ends")
    return Interval(items[0], items[1], opener == "[", token.text == "]")


def braced(p: Cursor, opener: str) -> Node:
    closer = "}" if opener == "{" else r"\}"
    if p.at("close", closer):
        p.take()
        return Sym("emptyset") if opener == r"\{" else _after_empty_group(p)
    is_set = opener == r"\{" or p.pos == 1  # {x | x > 1} typed without backslashes
    p.fences.append("set" if is_set else "{")
    inner = p.sequence()
    p.fences.pop()
    if is_set and p.at("op", "|", ":"):
        p.take()
        p.fences.append("condition")
        inner = Builder(inner, p.sequence())
        p.fences.pop()
    elif opener == r"\{" and not p.at("close") and isinstance(inner, Seq | Chain | Call):
        return inner  # \left\{ \begin{array}…\end{array} \right. has no second brace
    elif opener == r"\{" or (isinstance(inner, Seq) and inner.kind == "list"):
        listed = isinstance(inner, Seq) and inner.kind == "list"
        inner = Seq("set", inner.items if listed and isinstance(inner, Seq) else (inner,))
    p.expect("close", closer)
    return inner


def _after_empty_group(p: Cursor) -> Node:
    """{}^5C_2 and similar start with an empty group."""
    if p.at("op", "^", "_"):
        p.take()
        upper = p.argument()
        letter = p.take().text
        if letter in ("C", "P") and p.at("op", "_"):
            p.take()
            return Call("binom" if letter == "C" else "perm", (upper, p.argument()))
    raise Unparsable("empty group")
