"""A Pratt parser from tokens to nodes. It builds, and never computes: cost bounds are the
evaluator's business.

Bindings, loosest first: lists (, ; and or) < relations < ratio < set operations < units < sums <
products (written or implied, left to right) < powers and postfixes. Depth is counted, so nesting
ends in `Unparsable` and not in a full stack.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1jax.rewards.math import units
from r1jax.rewards.math.brackets import braced, bracketed, fenced
from r1jax.rewards.math.commands import command, function
from r1jax.rewards.math.cursor import (
    END,
    LIST,
    ORDINALS,
    PRODUCT,
    RATIO,
    RELATION,
    SET,
    SUM,
    UNIT,
    Cursor,
)
from r1jax.rewards.math.nodes import (
    ZERO,
    Based,
    Call,
    Chain,
    Matrix,
    Node,
    Num,
    Quantity,
    Ratio,
    Seq,
    Sym,
    Text,
    Unparsable,
    is_deeper_than,
    negate,
    number,
)
from r1jax.rewards.math.operands import mixed, symbol, words
from r1jax.rewards.math.suffixes import (
    degrees,
    join_parts,
    quantity,
    subscript,
)
from r1jax.rewards.math.tokens import Token, tokenize
from r1jax.rewards.math.vocabulary import names

MAX_DEPTH = 120

RELATIONS = names("= < > <= >= != ≈ in notin ≡ ~ ≅ ∥ ⊥ ⊂ ⊆ -> ∝")
_FLIP_NOT = {"=": "!=", "in": "notin", "≡": "!="}
_INFIX = (
    dict.fromkeys(RELATIONS, RELATION)
    | dict.fromkeys((":", "to", "over", "choose"), RATIO)
    | dict.fromkeys(("∪", "∩", "\\"), SET)
    | dict.fromkeys(("+", "-", "±", "∓"), SUM)
    | dict.fromkeys(("*", "/", "mod"), PRODUCT)
)
_SEPARATORS = frozenset((",", ";", "and", "or"))
# Words that announce a value as its label does. Any others may change what it says ("at least",
# "twice", "not") and make the text prose.
_ANNOUNCING = names("""
    is are equals equal be answer result about approximately around exactly only so therefore thus
    hence
""")
_CHANGING_HAN = re.compile("[不非否超至少多未除倍半]")
_MARKS = ORDINALS | {"deg", "'", "+", "-", "*", "T"}
_NUMBER_SETS = frozenset(Sym(f"set:{name}") for name in "RZNQ")


class Parser(Cursor):
    """Operators, lists and what they bind; brackets, commands, words and units are in modules."""

    def answer(self) -> Node:
        node = self.sequence()
        if not self.at("end"):
            raise Unparsable(f"did not understand {self.peek().text[:20]!r}")
        return node

    def sequence(self) -> Node:
        items = [self.expr(LIST)]
        separators: set[str] = set()
        while self.at_separator():
            while self.at_separator():
                separators.add(self.take().text)
            if self.peek().kind in ("end", "close"):
                break
            items.append(self.expr(LIST))
        if len(items) == 1:
            return items[0]
        if separators == {"and"} and (total := join_parts(items)):
            return total
        if all(isinstance(item, Chain) for item in items) and separators in ({"or"}, {"and"}):
            return Call(separators.pop(), tuple(items))
        return Seq("set" if "or" in separators else "list", tuple(items))

    def at_separator(self) -> bool:
        """A comma and its kin; outside matrices a line break parts answers too."""
        in_cell = bool(self.fences) and self.fences[-1] == "cell"
        return self.at("op", *_SEPARATORS) or (not in_cell and self.at("op", "\\\\"))

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
            # a bracket right behind a word is a call of an unknown function
            joined = token.text == "(" and not token.spaced and left.words.isascii()
            starts = token.kind == "num" or self.starts_factor(token)
            return RELATION + 1 if starts and not joined else 0
        if token.kind == "cmd" and token.text == "pmod":
            return RELATION + 1
        if token.kind == "cmd" and token.text == "not":
            return RELATION
        if token.text == "(" and token.kind == "open" and self.peek(1).kind == "text":
            return UNIT  # 12 (minutes)
        if token.kind == "text" or (token.kind == "upright" and self.is_letter_unit()):
            return UNIT
        if isinstance(left, Quantity):
            return 0
        return PRODUCT if self.starts_factor(token) else 0

    def starts_factor(self, token: Token) -> bool:
        """Whether a product may go on with this token although no sign stands before it."""
        fence = self.fences[-1] if self.fences else ""
        if token.kind == "num":
            before = self.tokens[self.pos - 1] if self.pos else END
            raised = before.kind == "sym" and self.peek(1).text == "^"  # n2^n
            return before.kind == "close" or before.text == "!" or raised
        if token.kind == "sym":
            differential = self.integrals and token.text == "d" and self.peek(1).kind == "sym"
            return token.text != "..." and not differential
        if token.kind == "open":
            return not (token.text == "[" and fence in ("[", "]"))
        if token.kind == "cmd":
            return token.text not in ("end", "pmod", "not")
        return token.kind in ("func", "upright")

    def is_letter_unit(self) -> bool:
        before = self.tokens[self.pos - 1] if self.pos else END
        return self.peek().text in units.LETTER_UNITS and before.kind in (
            "num",
            "close",
            "text",
            "upright",
        )

    def infix(self, left: Node, bp: int) -> Node:
        token = self.peek()
        if isinstance(left, Text) and bp == RELATION + 1:
            label = left if self.skip("op", ":") else self.label(left)
            return Chain((label, self.expr(RELATION)), ("=",))
        if bp == UNIT:
            return quantity(self, left)
        if token.kind == "cmd" and token.text == "pmod":
            self.take()
            return Call("pmod", (left, self.argument()))
        if bp == RELATION:
            return self.relation(left)
        if token.text in ("over", "choose"):
            name = "/" if self.take().text == "over" else "binom"
            return Call(name, (left, self.expr(RATIO)))
        if bp == RATIO:
            return self.ratio(left)
        if bp == SET:
            return self.set_operation(left)
        return self.sum(left) if bp == SUM else self.product(left)

    def label(self, text: Text) -> Node:
        """The words, if a value may follow them without any sign between."""
        last = text.words.lower().split()[-1]
        if last in _ANNOUNCING or (not last.isascii() and not _CHANGING_HAN.search(text.words)):
            return text
        raise Unparsable("qualified value")

    def relation(self, left: Node) -> Node:
        terms: list[Node] = [left]
        ops: list[str] = []
        if isinstance(left, Chain) and isinstance(left.terms[0], Text):  # a label before x = 5
            terms, ops = [*left.terms], [*left.ops]
        while self.at("op", *RELATIONS) or self.at("cmd", "not"):
            token = self.peek()
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

    def set_operation(self, left: Node) -> Node:
        """Unions of many sets are one node: a long one is not a deep one."""
        sign = self.peek().text
        parts = [left]
        while self.skip("op", sign):
            parts.append(self.expr(SET))
            if len(parts) > MAX_DEPTH:
                raise Unparsable("too many set operations")
        return Call(sign, tuple(parts))

    def sum(self, left: Node) -> Node:
        terms: list[Node] = [left]
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
        factors: list[Node] = [left]
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

    def prefix(self) -> Node:
        return self.postfix(self.primary())

    def primary(self) -> Node:
        token = self.take()
        kind, text = token.kind, token.text
        if kind == "num":
            return mixed(self, token)
        if kind in ("sym", "upright"):
            return symbol(self, text)
        if kind == "open":
            return self.group(text)
        if kind == "cmd":
            return command(self, text)
        if kind == "func":
            return function(self, text)
        if kind == "based":
            assert token.value is not None
            return Based(text, int(token.value))
        if kind == "text":
            return words(self, text)
        if kind == "close" and text == "]":
            return bracketed(self, "]")
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
            return fenced(self, "|")
        if text in ("≈", "=", "~") and self.pos == 1:  # "= 5" at the start of a box
            return self.expr(RELATION)
        raise Unparsable(f"did not expect {text!r}")

    def group(self, opener: str) -> Node:
        if opener in ("(", "[", "]"):
            return bracketed(self, opener)
        if opener in ("{", r"\{"):
            return braced(self, opener)
        return fenced(self, opener)

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
            return command(self, token.text)
        raise Unparsable("missing argument")

    def postfix(self, node: Node) -> Node:
        for _ in range(MAX_DEPTH // 4):
            token = self.peek()
            if token.kind != "op":
                return node
            if token.text == "^":
                node = self.power(node)
            elif token.text == "_":
                self.take()
                node = subscript(self, node)
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
                node = degrees(self, node)
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
        if mark.text == "o" and isinstance(base, Num):  # a letter for the degree sign
            self.pos += 3 if braced else 1
            return degrees(self, base)
        marks = mark.kind in ("text", "op", "upright") and mark.text in _MARKS
        marks = marks or (mark.text == "T" and isinstance(base, Seq | Matrix))
        if marks and (mark.text not in ("+", "-") or braced or base in _NUMBER_SETS):
            self.pos += 3 if braced else 1
            return self.marked(base, mark.text)
        return Call("^", (base, self.exponent()))

    def marked(self, base: Node, mark: str) -> Node:
        if mark == "deg":
            return degrees(self, base)
        if mark in ORDINALS:
            return base
        if mark == "T" and isinstance(base, Seq):
            return Matrix(tuple((item,) for item in base.items))
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
        """What stands at a sum or integral sign: a group or one operand, never a power, since the
        other limit follows.
        """
        if self.at("op", "-", "+"):
            return negate(self.limit()) if self.take().text == "-" else self.limit()
        token = self.take()
        if token.kind == "open":
            return self.group(token.text)
        self.pos -= 1
        return self.primary()


def parse_expression(text: str, *, split_commas: bool = False) -> Node:
    """The node that the text denotes, or `Unparsable`."""
    node = Parser(tokenize(text, split_commas=split_commas)).answer()
    if is_deeper_than(node, MAX_DEPTH + 30):  # chains that grow to the left nest without brackets
        raise Unparsable("nested too deeply")
    return node
