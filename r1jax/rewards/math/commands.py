"""LaTeX commands and named functions: fractions, roots, sums, integrals, environments, accents."""

from __future__ import annotations

from r1jax.rewards.math.cursor import LIST, SUM, Cursor, items_of
from r1jax.rewards.math.nodes import (
    ONE,
    ZERO,
    Bound,
    Call,
    Chain,
    Matrix,
    Node,
    Num,
    Seq,
    Sym,
    Text,
    Unparsable,
    negate,
    number,
)
from r1jax.rewards.math.vocabulary import names

MAX_ENTRIES = 400

_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec",
    "csc": "arccsc",
             "sinh": "arcsinh", "cosh": "arccosh", "tanh": "arctanh"}  # fmt: skip
_VARIADIC = frozenset(("max", "min", "gcd", "lcm"))
_ACCENTS = names("overline bar hat vec widehat overrightarrow tilde dot widetilde")
_FIGURES = names("angle triangle measuredangle odot square nabla partial")
_MATRICES = names("matrix pmatrix bmatrix vmatrix Bmatrix Vmatrix array smallmatrix")


def command(p: Cursor, name: str) -> Node:
    if name == "frac":
        return _fraction(p)
    if name == "sqrt":
        return _root(p, 2)
    if name == "binom":
        return Call("binom", (p.argument(), p.argument()))
    if name in ("sum", "prod", "lim"):
        return _big(p, name)
    if name == "int":
        return _integral(p)
    if name == "begin":
        return _environment(p)
    if name in ("overset", "underset", "stackrel"):
        p.argument()
        return p.argument()
    if name in ("mathbb", "mathcal", "mathscr", "mathfrak"):
        inner = p.argument()
        if not isinstance(inner, Sym):
            raise Unparsable("unknown set")
        return Sym(f"set:{inner.name}" if name == "mathbb" else inner.name)
    if name in _ACCENTS:
        return _accented(p, name)
    if name in _FIGURES:
        return _named(p, name)
    raise Unparsable(f"\\{name} does not stand here")


def _fraction(p: Cursor) -> Node:
    top, bottom = p.argument(), p.argument()
    if (
        top == Sym("d")
        and isinstance(bottom, Call)
        and bottom.name == "*"
        and bottom.args[0] == Sym("d")
    ):
        variable = bottom.args[-1]
        if len(bottom.args) == 2 and isinstance(variable, Sym):
            return Bound("diff", p.expr(SUM), variable.name, ZERO)
    return Call("/", (top, bottom))


def _root(p: Cursor, index: int) -> Node:
    degree: Node = number(index)
    if p.at("open", "["):
        p.take()
        degree = p.group("[")
    if p.at("open"):
        inner = p.group(p.take().text)
    else:
        inner = p.primary()
    return Call("root", (inner, degree))


def _big(p: Cursor, kind: str) -> Node:
    low: Node = ZERO
    high: Node | None = None
    while p.at("op", "_", "^"):
        if p.take().text == "_":
            low = p.limit()
        else:
            high = p.limit()
    if not (isinstance(low, Chain) and len(low.terms) == 2 and isinstance(low.terms[0], Sym)):
        raise Unparsable(f"{kind} without a range")
    if (kind == "lim") != (high is None) or low.ops[0] not in ("=", "->"):
        raise Unparsable(f"{kind} without a range")
    start, variable = low.terms[1], low.terms[0].name
    return Bound(kind, p.expr(SUM), variable, start, high)


def _integral(p: Cursor) -> Node:
    limits: dict[str, Node] = {}
    while p.at("op", "_", "^"):
        side = p.take().text
        limits[side] = p.limit()
    p.integrals += 1
    body = ONE if p.at("sym", "d") and p.peek(1).kind == "sym" else p.expr(SUM - 1)
    p.integrals -= 1
    p.expect("sym", "d")
    variable = p.expect("sym").text
    if len(limits) != 2:
        raise Unparsable("indefinite integral")
    return Bound("int", body, variable, limits["_"], limits["^"])


def _environment(p: Cursor) -> Node:
    name = _environment_name(p)
    if name == "array" and p.at("open", "{"):
        while not p.at("close", "}"):
            if p.take().kind == "end":
                raise Unparsable("unclosed array")
        p.take()
    rows: list[tuple[Node, ...]] = []
    row: list[Node] = []
    p.fences.append("cell")
    while not p.at("cmd", "end"):
        if p.at("op", "\\\\"):
            p.take()
            rows, row = ([*rows, tuple(row)] if row else rows), []
        elif p.at("op", "&", ","):
            p.take()
        else:
            row.append(p.expr(LIST))
        if len(rows) + len(row) > MAX_ENTRIES:
            raise Unparsable("matrix too large")
    p.fences.pop()
    rows = [*rows, tuple(row)] if row else rows
    p.take()
    _environment_name(p)
    return _make_environment(name, tuple(rows))


def _environment_name(p: Cursor) -> str:
    p.expect("open", "{")
    parts: list[str] = []
    while not p.at("close", "}"):
        if len(parts) > 20 or p.peek().kind == "end":
            raise Unparsable("unclosed environment name")
        parts.append(p.take().text)
    p.take()
    return "".join(parts).rstrip("*")


def _accented(p: Cursor, name: str) -> Node:
    inner = p.argument()
    name = "vec" if name == "overrightarrow" else name
    if isinstance(inner, Sym):
        if inner.name in ("i", "j", "k") and name in ("hat", "vec"):
            return Sym(f"unit:{inner.name}")
        if name in ("overline", "bar") and inner.name in ("z", "w"):
            return Call("conj", (inner,))
        return Sym(f"{name}:{inner.name}")
    if (
        isinstance(inner, Call)
        and inner.name == "*"
        and all(isinstance(a, Sym) for a in inner.args)
    ):
        return Sym(f"{name}:" + "".join(a.name for a in inner.args if isinstance(a, Sym)))
    if isinstance(inner, Num):
        return inner
    if name not in ("overline", "bar"):
        raise Unparsable(f"{name} over an expression")
    return Call("conj", (inner,))


def _named(p: Cursor, name: str) -> Node:
    """\\angle ABC and the like are names."""
    letters = []
    while p.peek().kind in ("sym", "upright") and len(letters) < 6:
        letters.append(p.take().text)
    return Sym(f"{name}:" + "".join(letters))


def function(p: Cursor, name: str) -> Node:
    if name in ("sqrt", "cbrt"):
        return _root(p, 3 if "cb" in name else 2)
    if p.at("op", "=", ":"):
        return Text(name)  # max = 5
    base: Node | None = None
    exponent: Node | None = None
    while p.at("op", "_", "^"):
        if p.take().text == "_":
            base = p.limit()
        else:
            exponent = p.exponent()
    if exponent == number(-1) and name in _INVERSES:
        name, exponent = _INVERSES[name], None
    arguments = _function_arguments(p)
    if name not in _VARIADIC and len(arguments) != (2 if name == "binom" else 1):
        raise Unparsable(f"{name} of {len(arguments)} values")
    result = Call(name, arguments)
    if name == "log" and base is not None:
        result = Call("logb", (*result.args, base))
    return result if exponent is None else Call("^", (result, exponent))


def _function_arguments(p: Cursor) -> tuple[Node, ...]:
    """A bracket, or the product up to the next sign or function."""
    if p.at("open", "(", "{", "[", r"\{"):
        return items_of(p.group(p.take().text))
    factors = []
    if p.at("op", "-"):
        p.take()
        return (negate(p.prefix()),)
    while not factors or (p.starts_factor(p.peek()) and p.peek().kind not in ("func", "text")):
        factors.append(p.prefix())
    return (factors[0] if len(factors) == 1 else Call("*", tuple(factors)),)


def _make_environment(name: str, rows: tuple[tuple[Node, ...], ...]) -> Node:
    if not rows:
        raise Unparsable("empty environment")
    if name in ("cases", "align", "aligned", "array") and all(
        len(row) == 1 and isinstance(row[0], Chain) for row in rows
    ):
        return Seq("list", tuple(row[0] for row in rows))
    if name == "cases":
        return Call("cases", tuple(Seq("tuple", row) for row in rows))
    if name not in _MATRICES and len(rows) == len(rows[0]) == 1:
        return rows[0][0]
    if len({len(row) for row in rows}) != 1:
        raise Unparsable("ragged matrix")
    if name not in _MATRICES:
        raise Unparsable(f"environment {name[:20]}")
    return Call("det", (Matrix(rows),)) if name == "vmatrix" else Matrix(rows)
