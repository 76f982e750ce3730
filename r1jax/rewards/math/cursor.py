"""The token cursor that the parser's modules share, and what they may ask of the parser."""

from __future__ import annotations

from abc import ABC, abstractmethod

from r1jax.rewards.math.nodes import Node, Seq, Unparsable
from r1jax.rewards.math.tokens import Token

# How strongly infix signs bind, loosest first.
LIST, RELATION, RATIO, SET, UNIT, SUM, PRODUCT = 5, 20, 25, 30, 35, 40, 50
END = Token("end", "")
ORDINALS = frozenset(("th", "st", "nd", "rd"))


class Cursor(ABC):
    """A position in the tokens. `fences` are the open brackets, innermost last; `integrals` the
    open integral signs.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.pos = 0
        self.depth = 0
        self.fences: list[str] = []
        self.integrals = 0

    def peek(self, ahead: int = 0) -> Token:
        at = self.pos + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def before(self) -> Token:
        """The token taken last."""
        return self.tokens[self.pos - 1] if self.pos else END

    def take(self) -> Token:
        token = self.peek()
        self.pos += 1
        return token

    def at(self, kind: str, *texts: str) -> bool:
        token = self.peek()
        return token.kind == kind and (not texts or token.text in texts)

    def skip(self, kind: str, *texts: str) -> bool:
        """Take the token if it is one of these."""
        found = self.at(kind, *texts)
        self.pos += found
        return found

    def expect(self, kind: str, *texts: str) -> Token:
        if not self.at(kind, *texts):
            wanted = " or ".join(texts) or kind
            raise Unparsable(f"expected {wanted}, found {self.peek().text[:20]!r}")
        return self.take()

    @abstractmethod
    def sequence(self) -> Node:
        """One expression, or several parted by commas and their kin."""

    @abstractmethod
    def expr(self, min_bp: int) -> Node:
        """An expression of everything that binds more strongly than `min_bp`."""

    @abstractmethod
    def prefix(self) -> Node:
        """One operand with its powers and marks."""

    @abstractmethod
    def primary(self) -> Node:
        """One operand without."""

    @abstractmethod
    def group(self, opener: str) -> Node:
        """What a bracket that was just taken encloses."""

    @abstractmethod
    def argument(self) -> Node:
        """A LaTeX argument: a group, or one token, of a number only its first digit."""

    @abstractmethod
    def exponent(self) -> Node:
        """What stands behind ^."""

    @abstractmethod
    def limit(self) -> Node:
        """What stands at a sum or integral sign, never a power, since the other limit follows."""

    @abstractmethod
    def starts_factor(self, token: Token) -> bool:
        """Whether a product may go on with this token although no sign stands before it."""


def items_of(node: Node) -> tuple[Node, ...]:
    """The entries of a bracket; a single value is its own only entry."""
    listed = isinstance(node, Seq) and node.kind in ("list", "tuple", "set", "bracket")
    return node.items if listed and isinstance(node, Seq) else (node,)
