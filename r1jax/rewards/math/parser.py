"""A Pratt parser from tokens to nodes. It builds, and never computes: cost bounds are the evaluator's business.

Bindings, loosest first: lists (, ; and or) < relations < ratio < set operations < units < sums < products (written or
implied, left to right) < powers and postfixes. Depth is counted, so nesting ends in `Unparsable` and not in a full stack.
"""

from __future__ import annotations

from fractions import Fraction

from r1jax.rewards.math import units
from r1jax.rewards.math.nodes import (
    DOTS,
    INFINITY,
    ONE,
    ZERO,
    Based,
    Bound,
    Builder,
    Call,
    Chain,
    Interval,
    Matrix,
    Node,
    Num,
    Quantity,
    Ratio,
    Seq,
    Sym,
    Text,
    Unparsable,
    negate,
    number,
)
from r1jax.rewards.math.tokens import FUNCTIONS, Token, tokenize

MAX_DEPTH = 120
MAX_ENTRIES = 400

LIST, RELATION, RATIO, SET, UNIT, SUM, PRODUCT, TIGHT = 5, 20, 25, 30, 35, 40, 50, 60
RELATIONS = frozenset("= < > <= >= != ≈ in notin ≡ ~ ≅ ∥ ⊥ ⊂ ⊆ -> ∝".split())
_FLIP_NOT = {"=": "!=", "in": "notin", "≡": "!="}
_INFIX = (
    dict.fromkeys(RELATIONS, RELATION)
    | dict.fromkeys((":", "to", "over"), RATIO)
    | dict.fromkeys(("∪", "∩", "\\"), SET)
    | dict.fromkeys(("+", "-", "±", "∓"), SUM)
    | dict.fromkeys(("*", "/", "mod"), PRODUCT)
)
_SEPARATORS = frozenset((",", ";", "and", "or"))
_ORDINALS = frozenset(("th", "st", "nd", "rd"))
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc",
             "sinh": "arcsinh", "cosh": "arccosh", "tanh": "arctanh"}  # fmt: skip
# Words before a value that change what it says; dropping them as a label would be wrong.
_QUALIFIERS = frozenset(
    "not no least most than more less least fewer except never without isn't cannot neither wrong".split()
)
_END = Token("end", "")


class Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.pos = 0
        self.depth = 0
        self.fences: list[str] = []
        self.integrals = 0

    # tokens

    def peek(self, ahead: int = 0) -> Token:
        at = self.pos + ahead
        return self.tokens[at] if at < len(self.tokens) else _END

    def take(self) -> Token:
        token = self.peek()
        self.pos += 1
        return token

    def at(self, kind: str, *texts: str) -> bool:
        token = self.peek()
        return token.kind == kind and (not texts or token.text in texts)

    def expect(self, kind: str, *texts: str) -> Token:
        if not self.at(kind, *texts):
            raise Unparsable(
                f"expected {' or '.join(texts) or kind}, found {self.peek().text[:20]!r}"
            )
        return self.take()

    # lists and expressions

    def answer(self) -> Node:
        node = self.sequence()
        if not self.at("end"):
            raise Unparsable(f"did not understand {self.peek().text[:20]!r}")
        return node

    def sequence(self) -> Node:
        items = [self.expr(LIST)]
        separators: set[str] = set()
        while self.peek().kind == "op" and self.peek().text in _SEPARATORS:
            while self.peek().kind == "op" and self.peek().text in _SEPARATORS:
                separators.add(self.take().text)
            if self.peek().kind in ("end", "close"):
                break
            items.append(self.expr(LIST))
        if len(items) == 1:
            return items[0]
        if all(isinstance(item, Chain) for item in items) and separators in ({"or"}, {"and"}):
            return Call(separators.pop(), tuple(items))
        return Seq("list", tuple(items))

    def expr(self, min_bp: int) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unparsable("nested too deeply")
        left = self.prefix()
        while (bp := self.binding(left)) > min_bp:
            left = self.infix(left, bp)
        self.depth -= 1
        return left

    def binding(self, left: Node) -> int:
        """How strongly the next token binds to what stands before it; 0 ends the expression."""
        token = self.peek()
        fence = self.fences[-1] if self.fences else ""
        if token.kind == "op":
            if token.text == ":" and fence == "set":
                return 0
            if token.text == ":" and isinstance(left, Text):
                return RELATION + 1
            if token.text == "|":
                return 0 if fence in ("|", "set") else PRODUCT
            return _INFIX.get(token.text, 0)
        if isinstance(left, Text):
            return RELATION + 1 if token.kind == "num" or self.starts_factor(token) else 0
        if token.kind == "cmd" and token.text == "pmod":
            return RELATION + 1
        if token.kind == "cmd" and token.text == "not":
            return RELATION
        if token.kind == "text" or (token.kind == "upright" and self.is_letter_unit()):
            return UNIT
        if isinstance(left, Quantity):
            return 0
        return PRODUCT if self.starts_factor(token) else 0

    def starts_factor(self, token: Token) -> bool:
        """Whether a product may go on with this token although no sign stands before it."""
        fence = self.fences[-1] if self.fences else ""
        if token.kind == "num":
            before = self.tokens[self.pos - 1] if self.pos else _END
            return before.kind == "close"
        if token.kind == "sym":
            differential = self.integrals and token.text == "d" and self.peek(1).kind == "sym"
            return token.text != "..." and not differential
        if token.kind == "open":
            return not (token.text == "[" and fence in ("[", "]"))
        if token.kind == "cmd":
            return token.text not in ("end", "pmod", "not")
        return token.kind in ("func", "upright")

    def is_letter_unit(self) -> bool:
        before = self.tokens[self.pos - 1] if self.pos else _END
        return self.peek().text in units.LETTER_UNITS and before.kind in (
            "num",
            "close",
            "text",
            "upright",
        )

    def infix(self, left: Node, bp: int) -> Node:
        token = self.peek()
        if isinstance(left, Text) and bp == RELATION + 1:
            if token.text == ":":
                self.take()
            return Chain((self.label(left), self.expr(RELATION)), ("=",))
        if bp == UNIT:
            return self.quantity(left)
        if token.kind == "cmd" and token.text == "pmod":
            self.take()
            return Call("pmod", (left, self.argument()))
        if bp == RELATION:
            return self.relation(left)
        if token.text == "over":
            self.take()
            return Call("/", (left, self.expr(RATIO)))
        if bp == RATIO:
            return self.ratio(left)
        if bp == SET:
            self.take()
            return Call(token.text, (left, self.expr(SET)))
        return self.sum(left) if bp == SUM else self.product(left)

    def label(self, text: Text) -> Node:
        if _QUALIFIERS & set(text.words.lower().split()):
            raise Unparsable("qualified value")
        return text

    def relation(self, left: Node) -> Node:
        labelled = isinstance(left, Chain) and isinstance(left.terms[0], Text)
        terms, ops = ([*left.terms], [*left.ops]) if labelled else ([left], [])
        while (
            (token := self.peek()).text in RELATIONS and token.kind == "op" or token.text == "not"
        ):
            self.take()
            op = token.text
            if op == "not":
                op = _FLIP_NOT.get(self.take().text, "")
            elif op == "<" and self.at("op", "="):
                self.take()
                op = "<="
            if not op:
                raise Unparsable("unknown negated relation")
            ops.append(op)
            terms.append(self.expr(RELATION))
        return Chain(tuple(terms), tuple(ops))

    def ratio(self, left: Node) -> Node:
        parts = [left]
        while self.at("op", ":", "to"):
            self.take()
            parts.append(self.expr(RATIO))
        return Ratio(tuple(parts))

    def sum(self, left: Node) -> Node:
        terms = [left]
        while self.peek().kind == "op" and self.peek().text in ("+", "-", "±", "∓"):
            sign = self.take().text
            term = self.expr(SUM)
            if sign in "+-":
                terms.append(term if sign == "+" else negate(term))
            else:
                head = terms[0] if len(terms) == 1 else Call("+", tuple(terms))
                terms = [Call(sign, (head, term))]
        return terms[0] if len(terms) == 1 else Call("+", tuple(terms))

    def product(self, left: Node) -> Node:
        factors = [left]
        quotients = 0
        while self.binding(factors[-1]) == PRODUCT:
            op = self.take().text if self.at("op", "*", "/", "mod") else ""
            if op in ("/", "mod"):
                quotients += 1
                if quotients > MAX_DEPTH // 2:
                    raise Unparsable("too many divisions")
                head = factors[0] if len(factors) == 1 else Call("*", tuple(factors))
                factors = [Call(op, (head, self.factor()))]
            else:
                factors.append(self.factor())
        return factors[0] if len(factors) == 1 else Call("*", tuple(factors))

    def factor(self) -> Node:
        """One operand of a product: everything that binds tighter, with signs in front."""
        return self.expr(PRODUCT)

    # one operand

    def prefix(self) -> Node:
        return self.postfix(self.primary())

    def primary(self) -> Node:
        token = self.take()
        kind, text = token.kind, token.text
        if kind == "num":
            return self.mixed(token)
        if kind in ("sym", "upright"):
            return self.symbol(text)
        if kind == "open":
            return self.group(text)
        if kind == "cmd":
            return self.command(text)
        if kind == "func":
            return self.function(text)
        if kind == "based":
            assert token.value is not None
            return Based(text, int(token.value))
        if kind == "text":
            return self.words(text)
        if kind == "close" and text == "]":
            return self.bracketed("]")
        if kind == "op":
            return self.sign(text)
        raise Unparsable(f"did not expect {text[:20]!r}" if text else "ends too early")

    def sign(self, text: str) -> Node:
        if text == "-":
            return negate(self.expr(SUM))
        if text == "+":
            return self.expr(SUM)
        if text in ("±", "∓"):
            return Call(text, (ZERO, self.expr(SUM)))
        if text == "|":
            return self.fenced("|")
        if text in ("≈", "=", "~") and self.pos == 1:  # "= 5" at the start of a box
            return self.expr(RELATION)
        raise Unparsable(f"did not expect {text!r}")

    def mixed(self, token: Token) -> Node:
        """A literal; an integer directly before a fraction of integers is a mixed number."""
        assert token.value is not None
        value = Num(token.value, token.decimals)
        if token.decimals is not None or token.value.denominator != 1:
            return value
        start = self.pos
        if self.at("cmd", "frac"):
            self.take()
            top, bottom = self.argument(), self.argument()
        elif (
            self.peek().kind == "num"
            and self.peek().spaced
            and self.peek(1).text == "/"
            and self.peek(2).kind == "num"
        ):
            top, bottom = (self.argument(), self.take() and self.argument())
        else:
            return value
        if (
            isinstance(top, Num)
            and isinstance(bottom, Num)
            and bottom.value
            and not self.at("op", "^")
        ):
            parts = (top.value, bottom.value)
            if all(p.denominator == 1 and p >= 0 for p in parts):
                return Num(token.value + parts[0] / parts[1])
        self.pos = start
        return value

    def symbol(self, name: str) -> Node:
        """A letter; f(…), C(n, k) and P(n, k) are applications, other letters before a bracket are factors."""
        while self.at("op", "'"):
            self.take()
            name += "'"
        if (
            name[0] in "fgh"
            and self.at("op", "^")
            and self.peek(1).text == "{"
            and self.peek(2).text == "-"
            and self.peek(5).text == "("
        ):
            self.pos += 5
            name += "^-1"
        if self.at("open", "(") and (
            name.rstrip("'")[:1] in ("f", "g", "h") and len(name) < 5 or self.defines()
        ):
            self.take()
            return Call("apply", (Sym(name), *_items(self.group("("))))
        if self.at("open", "(") and name in ("C", "P"):
            start = self.pos
            self.take()
            arguments = _items(self.group("("))
            if len(arguments) == 2:
                return Call("binom" if name == "C" else "perm", arguments)
            self.pos = start
        return Sym(name)

    def defines(self) -> bool:
        """Whether the bracket ahead closes right before an equals sign, and its letter starts the expression: x(t) = …"""
        if self.pos > 1 and self.tokens[self.pos - 2].text not in (",", ";", "and", "or"):
            return False
        depth = 0
        for at in range(self.pos, min(len(self.tokens), self.pos + 40)):
            depth += (self.tokens[at].kind == "open") - (self.tokens[at].kind == "close")
            if depth == 0:
                return at + 1 < len(self.tokens) and self.tokens[at + 1].text == "="
        return False

    def words(self, first: str) -> Node:
        """Prose before a value: a currency sign, or a label."""
        if units.is_known(first) and self.peek().kind == "num":
            value = self.expr(UNIT)
            factors = self.unit_factors()
            return _quantity(value, factors if any(units.is_known(f[0]) for f in factors if f[0] not in units.SCALES) else [(first, 1), *factors])
        parts = [first]
        while self.peek().kind in ("text", "upright") or (
            self.at("op", "of", "in", "to") and self.peek(1).kind == "text"
        ):
            parts.append(self.take().text)
        return Text(" ".join(parts))

    # brackets

    def group(self, opener: str) -> Node:
        if opener in ("(", "[", "]"):
            return self.bracketed(opener)
        if opener in ("{", r"\{"):
            return self.braced(opener)
        return self.fenced(opener)

    def fenced(self, fence: str) -> Node:
        """|x|, ⌊x⌋, ⌈x⌉ and ⟨a, b⟩"""
        self.fences.append(fence)
        inner = self.sequence()
        self.fences.pop()
        if not (self.at("close", fence) or self.at("op", fence)):
            raise Unparsable(f"unclosed {fence}")
        self.take()
        if fence == "<":
            return Seq("vector", _items(inner))
        return Call("abs" if fence == "|" else fence, (inner,))

    def bracketed(self, opener: str) -> Node:
        self.fences.append(opener)
        inner = self.sequence()
        self.fences.pop()
        token = self.take()
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

    def braced(self, opener: str) -> Node:
        closer = "}" if opener == "{" else r"\}"
        if self.at("close", closer):
            self.take()
            return Sym("emptyset") if opener == r"\{" else self.after_empty_group()
        self.fences.append("set" if opener == r"\{" else "{")
        inner = self.sequence()
        self.fences.pop()
        if opener == r"\{" and self.at("op", "|", ":"):
            self.take()
            self.fences.append("condition")
            inner = Builder(inner, self.sequence())
            self.fences.pop()
        elif opener == r"\{" and not self.at("close") and isinstance(inner, Seq | Chain | Call):
            return inner  # \left\{ \begin{array}…\end{array} \right. has no second brace
        elif opener == r"\{" or (isinstance(inner, Seq) and inner.kind == "list"):
            listed = isinstance(inner, Seq) and inner.kind == "list"
            inner = Seq("set", inner.items if listed and isinstance(inner, Seq) else (inner,))
        self.expect("close", closer)
        return inner

    def after_empty_group(self) -> Node:
        """{}^5C_2 and similar start with an empty group."""
        if self.at("op", "^", "_"):
            self.take()
            upper = self.argument()
            letter = self.take().text
            if letter in ("C", "P") and self.at("op", "_"):
                self.take()
                return Call("binom" if letter == "C" else "perm", (upper, self.argument()))
        raise Unparsable("empty group")

    def argument(self) -> Node:
        """A LaTeX argument: a group, or one token, of a number only its first digit."""
        token = self.take()
        if token.kind == "open":
            return self.group(token.text)
        if (
            token.kind == "num"
            and len(token.text) > 1
            and token.text.isdigit()
            and self.tokens[self.pos - 2].kind == "cmd"
        ):
            self.pos -= 1
            rest = token.text[1:]
            self.tokens[self.pos] = Token("num", rest, False, Fraction(int(rest)))
            return number(int(token.text[0]))
        if token.kind == "num":
            assert token.value is not None
            return Num(token.value, token.decimals)
        if token.kind in ("sym", "upright"):
            return Sym(token.text)
        if token.kind == "cmd":
            return self.command(token.text)
        raise Unparsable("missing argument")

    # after an operand

    def postfix(self, node: Node) -> Node:
        for _ in range(MAX_DEPTH // 4):
            token = self.peek()
            if token.kind != "op":
                return node
            if token.text == "^":
                node = self.power(node)
            elif token.text == "_":
                self.take()
                node = self.subscript(node)
            elif token.text == "!":
                self.take()
                double = self.at("op", "!")
                if double:
                    self.take()
                node = Call("factorial2" if double else "factorial", (node,))
            elif token.text in ("%", "permille"):
                self.take()
                node = Call(token.text, (node,))
            elif token.text == "deg":
                self.take()
                node = self.degrees(node)
            elif token.text == "'" and isinstance(node, Sym | Call):
                self.take()
                node = Call("apply", (Sym("'"), node))
            else:
                return node
        raise Unparsable("too many postfixes")

    def power(self, base: Node) -> Node:
        self.expect("op", "^")
        braced = self.at("open", "{") and self.peek(2).text == "}"
        mark = self.peek(1) if braced else self.peek()
        if mark.text in ("deg", "'") or (
            mark.kind in ("text", "op", "upright") and mark.text in (*_ORDINALS, "+", "*", "-", "T")
        ):
            if mark.text not in ("+", "-") or braced or base in _NUMBER_SETS:
                self.pos += 3 if braced else 1
                return self.marked(base, mark.text)
        return Call("^", (base, self.exponent()))

    def marked(self, base: Node, mark: str) -> Node:
        if mark == "deg":
            return self.degrees(base)
        if mark in _ORDINALS:
            return base
        if mark == "T":
            return Call("transpose", (base,))
        if isinstance(base, Sym):
            return Sym(base.name + mark)
        raise Unparsable("mark on a value")

    def exponent(self) -> Node:
        if self.at("op", "-", "+"):
            sign = self.take().text
            return negate(self.exponent()) if sign == "-" else self.exponent()
        token = self.take()
        if token.kind == "open":
            return self.group(token.text)
        self.pos -= 1
        inner = self.primary()
        return self.power(inner) if self.at("op", "^") else inner

    def limit(self) -> Node:
        """What stands at a sum or integral sign: a group or one operand, never a power, since the other limit follows."""
        if self.at("op", "-", "+"):
            return negate(self.limit()) if self.take().text == "-" else self.limit()
        token = self.take()
        if token.kind == "open":
            return self.group(token.text)
        self.pos -= 1
        return self.primary()

    def degrees(self, node: Node) -> Node:
        """Degrees, with minutes and seconds where they follow; °C and °F are temperatures."""
        scale = self.peek()
        if scale.kind in ("sym", "upright") and scale.text in ("C", "F"):
            self.take()
            return Quantity(
                node, units.make_unit([("celsius" if scale.text == "C" else "fahrenheit", 1)])
            )
        total = [node]
        for size in (60, 3600):
            if self.peek().kind == "num" and self.peek(1).text in ("'", "^"):
                part = self.take()
                assert part.value is not None
                while self.at("op", "'") or (
                    self.at("op", "^") and self.peek(1).text in ("'", "{")
                ):
                    self.pos += 1 if self.at("op", "'") else 2
                    while self.at("op", "'") or self.at("close", "}"):
                        self.take()
                total.append(number(part.value / size))
        return Call("deg", (node if len(total) == 1 else Call("+", tuple(total)),))

    def subscript(self, node: Node) -> Node:
        token = self.peek()
        if token.kind == "open" and token.text == "{":
            index: Node = self.argument()
        elif token.kind in ("num", "sym", "upright"):
            self.take()
            index = Num(token.value) if token.value is not None else Sym(token.text)
        else:
            index = self.argument()
        if (
            isinstance(node, Num)
            and isinstance(index, Num)
            and node.decimals is None
            and 2 <= index.value <= 36
        ):
            return Based(str(node.value), int(index.value))
        if isinstance(node, Sym) and node.name in ("C", "P", "A") and self.at("op", "^"):
            self.take()
            return Call("binom" if node.name == "C" else "perm", (index, self.argument()))
        if isinstance(index, Text) and isinstance(node, Sym):
            return Sym(f"{node.name}_{index.words}")
        return Call("apply", (Sym("_"), node, index))

    def quantity(self, value: Node) -> Node:
        """A unit after a value, and further parts as in 3 hours 20 minutes."""
        result = _quantity(value, self.unit_factors())
        if isinstance(result, Quantity) and result.unit.dims and self.peek().kind == "num":
            rest = self.expr(UNIT - 1)
            if not isinstance(rest, Quantity) or rest.unit.dims != result.unit.dims:
                raise Unparsable("two quantities side by side")
            scaled = Call("*", (rest.value, number(rest.unit.factor / result.unit.factor)))
            return Quantity(Call("+", (result.value, scaled)), result.unit)
        return result

    def unit_factors(self) -> list[tuple[str, int]]:
        factors: list[tuple[str, int]] = []
        sign, power = 1, 1
        while True:
            token = self.peek()
            if (
                token.kind == "op"
                and token.text in ("/", "*")
                and self.peek(1).kind in ("text", "upright", "sym")
                and factors
            ):
                self.take()
                sign = -1 if token.text == "/" else sign
                continue
            after_slash = self.pos and self.tokens[self.pos - 1].text == "/"
            if token.kind == "sym" and not (after_slash and units.is_known(token.text)):
                return factors
            if token.kind not in ("text", "upright", "sym") and not (
                self.at("op", "to", "in", "or")
                and self.peek(1).kind == "text"
                and token.text != "or"
            ):
                return factors
            word = self.take().text
            lower = word.lower()
            if lower in ("per", "每"):
                sign = -1
            elif lower in ("square", "sq", "cubic", "cu"):
                power = 2 if lower.startswith("s") else 3
            elif lower in ("squared", "cubed") and factors:
                factors[-1] = (factors[-1][0], factors[-1][1] * (2 if lower == "squared" else 3))
            elif lower not in _ORDINALS:
                factors.append((word, sign * power * self.unit_power()))
                power = 1

    def unit_power(self) -> int:
        if not self.at("op", "^"):
            return 1
        self.take()
        exponent = self.exponent()
        if (
            isinstance(exponent, Num)
            and exponent.value.denominator == 1
            and abs(exponent.value) <= 9
        ):
            return int(exponent.value)
        raise Unparsable("unit power")

    # commands and functions

    def command(self, name: str) -> Node:
        if name == "frac":
            return self.fraction()
        if name == "sqrt":
            return self.root(2)
        if name == "binom":
            return Call("binom", (self.argument(), self.argument()))
        if name in ("sum", "prod", "lim"):
            return self.big(name)
        if name == "int":
            return self.integral()
        if name == "begin":
            return self.environment()
        if name in ("overset", "underset", "stackrel"):
            self.argument()
            return self.argument()
        if name in ("mathbb", "mathcal", "mathscr", "mathfrak"):
            inner = self.argument()
            if not isinstance(inner, Sym):
                raise Unparsable("unknown set")
            return Sym(f"set:{inner.name}" if name == "mathbb" else inner.name)
        if name in (
            "overline",
            "bar",
            "hat",
            "vec",
            "widehat",
            "overrightarrow",
            "tilde",
            "dot",
            "widetilde",
        ):
            return self.accented(name)
        if name in ("angle", "triangle", "measuredangle", "odot", "square", "nabla", "partial"):
            return self.named(name)
        raise Unparsable(f"\\{name} does not stand here")

    def fraction(self) -> Node:
        top, bottom = self.argument(), self.argument()
        if (
            top == Sym("d")
            and isinstance(bottom, Call)
            and bottom.name == "*"
            and bottom.args[0] == Sym("d")
        ):
            variable = bottom.args[-1]
            if len(bottom.args) == 2 and isinstance(variable, Sym):
                return Bound("diff", self.expr(SUM), variable.name, ZERO)
        return Call("/", (top, bottom))

    def root(self, index: int) -> Node:
        degree: Node = number(index)
        if self.at("open", "["):
            self.take()
            degree = self.group("[")
        if self.at("open"):
            inner = self.group(self.take().text)
        else:
            inner = self.primary()
        return Call("root", (inner, degree))

    def big(self, kind: str) -> Node:
        low: Node = ZERO
        high: Node | None = None
        while self.at("op", "_", "^"):
            if self.take().text == "_":
                low = self.limit()
            else:
                high = self.limit()
        if not (isinstance(low, Chain) and len(low.terms) == 2 and isinstance(low.terms[0], Sym)):
            raise Unparsable(f"{kind} without a range")
        if (kind == "lim") != (high is None) or low.ops[0] not in ("=", "->"):
            raise Unparsable(f"{kind} without a range")
        start, variable = low.terms[1], low.terms[0].name
        return Bound(kind, self.expr(SUM), variable, start, high)

    def integral(self) -> Node:
        limits: dict[str, Node] = {}
        while self.at("op", "_", "^"):
            side = self.take().text
            limits[side] = self.limit()
        self.integrals += 1
        body = ONE if self.at("sym", "d") and self.peek(1).kind == "sym" else self.expr(SUM - 1)
        self.integrals -= 1
        self.expect("sym", "d")
        variable = self.expect("sym").text
        if len(limits) != 2:
            raise Unparsable("indefinite integral")
        return Bound("int", body, variable, limits["_"], limits["^"])

    def environment(self) -> Node:
        name = self.environment_name()
        if name == "array" and self.at("open", "{"):
            while not self.at("close", "}"):
                if self.take().kind == "end":
                    raise Unparsable("unclosed array")
            self.take()
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        self.fences.append("cell")
        while not self.at("cmd", "end"):
            if self.at("op", "\\\\"):
                self.take()
                rows, row = (rows + [tuple(row)] if row else rows), []
            elif self.at("op", "&", ","):
                self.take()
            else:
                row.append(self.expr(LIST))
            if len(rows) + len(row) > MAX_ENTRIES:
                raise Unparsable("matrix too large")
        self.fences.pop()
        rows = rows + [tuple(row)] if row else rows
        self.take()
        self.environment_name()
        return _environment(name, tuple(rows))

    def environment_name(self) -> str:
        self.expect("open", "{")
        parts: list[str] = []
        while not self.at("close", "}"):
            if len(parts) > 20 or self.peek().kind == "end":
                raise Unparsable("unclosed environment name")
            parts.append(self.take().text)
        self.take()
        return "".join(parts).rstrip("*")

    def accented(self, name: str) -> Node:
        inner = self.argument()
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
        return Call("conj", (inner,))

    def named(self, name: str) -> Node:
        """\\angle ABC and the like are names."""
        letters = []
        while self.peek().kind in ("sym", "upright") and len(letters) < 6:
            letters.append(self.take().text)
        return Sym(f"{name}:" + "".join(letters))

    def function(self, name: str) -> Node:
        if name in ("sqrt", "usqrt", "cbrt", "ucbrt"):
            return self.root(3 if "cb" in name else 2)
        base: Node | None = None
        exponent: Node | None = None
        while self.at("op", "_", "^"):
            if self.take().text == "_":
                base = self.limit()
            else:
                exponent = self.exponent()
        if exponent == number(-1) and name in _INVERSES:
            name, exponent = _INVERSES[name], None
        arguments = self.function_arguments()
        if name not in _VARIADIC and len(arguments) != (2 if name == "binom" else 1):
            raise Unparsable(f"{name} of {len(arguments)} values")
        result = Call(name, arguments)
        if name == "log" and base is not None:
            result = Call("logb", (*result.args, base))
        return result if exponent is None else Call("^", (result, exponent))

    def function_arguments(self) -> tuple[Node, ...]:
        """A bracket, or the product up to the next sign or function."""
        if self.at("open", "(", "{", "[", r"\{"):
            return _items(self.group(self.take().text))
        factors = []
        if self.at("op", "-"):
            self.take()
            return (negate(self.prefix()),)
        while not factors or (
            self.starts_factor(self.peek()) and self.peek().kind not in ("func", "text")
        ):
            factors.append(self.prefix())
        return (factors[0] if len(factors) == 1 else Call("*", tuple(factors)),)


_VARIADIC = frozenset(("max", "min", "gcd", "lcm"))
_NUMBER_SETS = frozenset(Sym(f"set:{name}") for name in "RZNQ")


def _quantity(value: Node, factors: list[tuple[str, int]]) -> Node:
    """A value with its unit; degrees and per cent are operators, and words such as million are part of the value."""
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


def _items(node: Node) -> tuple[Node, ...]:
    return (
        node.items
        if isinstance(node, Seq) and node.kind in ("list", "tuple", "set", "bracket")
        else (node,)
    )


def _environment(name: str, rows: tuple[tuple[Node, ...], ...]) -> Node:
    if not rows:
        raise Unparsable("empty environment")
    if name in ("cases", "align", "aligned", "array") and all(
        len(row) == 1 and isinstance(row[0], Chain) for row in rows
    ):
        return Seq("list", tuple(row[0] for row in rows))
    if name == "cases":
        return Call("cases", tuple(Seq("tuple", row) for row in rows))
    if len({len(row) for row in rows}) != 1:
        raise Unparsable("ragged matrix")
    if name not in (
        "matrix",
        "pmatrix",
        "bmatrix",
        "vmatrix",
        "Bmatrix",
        "Vmatrix",
        "array",
        "smallmatrix",
    ):
        raise Unparsable(f"environment {name[:20]}")
    return Call("det", (Matrix(rows),)) if name == "vmatrix" else Matrix(rows)


def parse_expression(text: str, *, split_commas: bool = False) -> Node:
    """The node that the text denotes, or `Unparsable`."""
    try:
        return Parser(tokenize(text, split_commas=split_commas)).answer()
    except RecursionError:  # a caller's own stack may be nearly full
        raise Unparsable("nested too deeply") from None


__all__ = ["DOTS", "FUNCTIONS", "INFINITY", "Parser", "parse_expression"]
