"""What follows an operand: units, degree marks and subscripts."""

from __future__ import annotations

from r1jax.rewards.math import units
from r1jax.rewards.math.cursor import ORDINALS, UNIT, Cursor
from r1jax.rewards.math.nodes import Based, Call, Node, Num, Quantity, Sym, Text, Unparsable, number
from r1jax.rewards.math.vocabulary import names

# Words behind a number that change it and are no unit.
_OPERATIONS = names("""
    squared cubed factorial tenths hundredths thousandths halves thirds fourths fifths plus minus
    over wrong incorrect not less fewer more or is are was were equals
""")


def degrees(p: Cursor, node: Node) -> Node:
    """Degrees, with minutes and seconds where they follow; °C and °F are temperatures."""
    scale = p.peek()
    if scale.kind in ("sym", "upright") and scale.text in ("C", "F"):
        p.take()
        return Quantity(
            node, units.make_unit([("celsius" if scale.text == "C" else "fahrenheit", 1)])
        )
    total = [node]
    for size in (60, 3600):
        if p.peek().kind == "num" and p.peek(1).text in ("'", "^"):
            part = p.take()
            assert part.value is not None
            while p.at("op", "'") or (p.at("op", "^") and p.peek(1).text in ("'", "{")):
                p.pos += 1 if p.at("op", "'") else 2
                while p.at("op", "'") or p.at("close", "}"):
                    p.take()
            total.append(number(part.value / size))
    return Call("deg", (node if len(total) == 1 else Call("+", tuple(total)),))


def subscript(p: Cursor, node: Node) -> Node:
    token = p.peek()
    if token.kind == "open" and token.text == "{":
        index: Node = p.argument()
    elif token.kind in ("num", "sym", "upright"):
        p.take()
        index = Num(token.value) if token.value is not None else Sym(token.text)
    else:
        index = p.argument()
    if (
        isinstance(node, Num)
        and isinstance(index, Num)
        and node.decimals is None
        and node.value.denominator == index.value.denominator == 1
        and node.value >= 0
        and 2 <= index.value <= 36
    ):
        return Based(str(node.value), int(index.value))
    if isinstance(node, Sym) and node.name in ("C", "P", "A") and p.at("op", "^"):
        p.take()
        return Call("binom" if node.name == "C" else "perm", (index, p.argument()))
    if isinstance(index, Text) and isinstance(node, Sym):
        return Sym(f"{node.name}_{index.words}")
    return Call("apply", (Sym("_"), node, index))


def quantity(p: Cursor, value: Node) -> Node:
    """A unit after a value, and further parts as in 3 hours 20 minutes."""
    if p.skip("open", "("):
        result = make_quantity(value, unit_factors(p))
        p.expect("close", ")")
        return result
    result = make_quantity(value, unit_factors(p))
    if isinstance(result, Quantity) and result.unit.dims and p.peek().kind == "num":
        rest = p.expr(UNIT - 1)
        if not isinstance(rest, Quantity) or rest.unit.dims != result.unit.dims:
            raise Unparsable("two quantities side by side")
        scaled = Call("*", (rest.value, number(rest.unit.factor / result.unit.factor)))
        return Quantity(Call("+", (result.value, scaled)), result.unit)
    return result


def join_parts(items: list[Node]) -> Node | None:
    """10 hours and 30 minutes as one quantity; None if the items are no ever smaller parts."""
    parts = [item for item in items if isinstance(item, Quantity)]
    sizes = [part.unit.factor for part in parts]
    same = len({part.unit.dims for part in parts}) == 1 and bool(parts[0].unit.dims)
    if len(parts) != len(items) or not same or sizes != sorted(set(sizes), reverse=True):
        return None
    terms = [Call("*", (part.value, number(part.unit.factor / sizes[0]))) for part in parts]
    return Quantity(Call("+", tuple(terms)), parts[0].unit)


def unit_factors(p: Cursor) -> list[tuple[str, int]]:
    factors: list[tuple[str, int]] = []
    sign, power = 1, 1
    while True:
        token = p.peek()
        if (
            token.kind == "op"
            and token.text in ("/", "*")
            and p.peek(1).kind in ("text", "upright", "sym")
            and factors
        ):
            p.take()
            sign = -1 if token.text == "/" else sign
            continue
        after_slash = p.pos and p.tokens[p.pos - 1].text == "/"
        if token.kind == "sym" and not (after_slash and units.is_known(token.text)):
            return factors
        if token.kind not in ("text", "upright", "sym") and not (
            p.at("op", "to", "in", "or") and p.peek(1).kind == "text" and token.text != "or"
        ):
            return factors
        word = p.take().text
        lower = word.lower()
        if lower in ("per", "每"):
            sign = -1
        elif lower in ("square", "sq", "cubic", "cu"):
            power = 2 if lower.startswith("s") else 3
        elif lower in ("squared", "cubed") and factors:
            factors[-1] = (factors[-1][0], factors[-1][1] * (2 if lower == "squared" else 3))
        elif lower in _OPERATIONS:
            raise Unparsable("an operation in words")
        elif lower not in ORDINALS:
            factors.append((word, sign * power * _unit_power(p)))
            power = 1


def _unit_power(p: Cursor) -> int:
    if not p.at("op", "^"):
        return 1
    p.take()
    exponent = p.exponent()
    if isinstance(exponent, Num) and exponent.value.denominator == 1 and abs(exponent.value) <= 9:
        return int(exponent.value)
    raise Unparsable("unit power")


def make_quantity(value: Node, factors: list[tuple[str, int]]) -> Node:
    """A value with its unit; degrees and per cent are operators, and words such as million are part
    of the value.
    """
    names = [name.lower() for name, _ in factors]
    if names in (["degree"], ["degrees"], ["度"], ["deg"]):
        return Call("deg", (value,))
    if names[:1] in (["percent"], ["percents"]):
        return Call("%", (value,))
    for name in names:
        if name in units.SCALES:
            value = Call("*", (value, number(units.SCALES[name])))
    rest = [factor for factor in factors if factor[0].lower() not in units.SCALES]
    return Quantity(value, units.make_unit(rest)) if rest or not factors else value
