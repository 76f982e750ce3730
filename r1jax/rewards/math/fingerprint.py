"""Equality of rational functions by evaluation modulo a prime (Schwartz-Zippel), with everything
else as unknowns.

Variables, π, roots, logarithms, unknown functions become residues hashed from their name and their
arguments' residues. Equal fingerprints prove equality (up to a chance of about degree / 10^18). If
nothing but + − × ÷ and integer powers was met, different fingerprints prove inequality too. Powers
cost log(exponent), so 2^(10^9) + 1 is as cheap as x + 1, and no precision is ever lost.
"""

from __future__ import annotations

import hashlib

from r1jax.rewards.math.exact import evaluate_exact
from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.nodes import Based, Bound, Call, Node, Num, Sym, TooCostly, Undefined

PRIME = 10**18 + 9  # 1 modulo 4, so −1 has a root
_IMAGINARY = pow(
    next(a for a in range(2, 50) if pow(a, (PRIME - 1) // 2, PRIME) == PRIME - 1),
    (PRIME - 1) // 4,
    PRIME,
)


def _hashed(*parts: object) -> int:
    text = "\x1f".join(map(str, parts))
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest(), "big"
        )
        % PRIME
    )


class Fingerprint:
    """Walks one expression; `pure` stays True while its residue says everything about it."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.pure = True

    def of(self, node: Node) -> int:
        self.budget.charge()
        if isinstance(node, Num):
            return self.ratio(node.value.numerator % PRIME, node.value.denominator % PRIME)
        if isinstance(node, Sym):
            return _IMAGINARY if node.name == "i" else _hashed("symbol", node.name)
        if isinstance(node, Based):
            return int(node.digits, node.base) % PRIME
        if isinstance(node, Call):
            return self.call(node)
        if isinstance(node, Bound):
            self.pure = False
            parts = [self.of(n) for n in (node.body, node.low, node.high) if n is not None]
            return _hashed(node.kind, node.var, *parts)
        raise Undefined("no number")

    def call(self, node: Call) -> int:
        if node.name == "^":
            return self.power(node)
        values = [self.of(arg) for arg in node.args]
        match node.name:
            case "+":
                return sum(values) % PRIME
            case "*":
                total = 1
                for value in values:
                    total = total * value % PRIME
                return total
            case "/":
                return self.ratio(*values)
            case "neg":
                return -values[0] % PRIME
            case "%":
                return self.ratio(values[0], 100)
        self.pure = False
        return _hashed("call", node.name, *values)

    def power(self, node: Call) -> int:
        base = self.of(node.args[0])
        exponent = None
        if node.args[0] != Sym("e") or isinstance(node.args[1], Num):
            try:
                exponent = evaluate_exact(node.args[1], self.budget)
            except (Undefined, TooCostly):
                exponent = None
        if exponent is not None and exponent.denominator == 1:
            if base == 0 and exponent < 0:
                raise Undefined("division by zero")
            return pow(base, int(exponent), PRIME)
        self.pure = False
        return _hashed("power", base, self.of(node.args[1]))

    def ratio(self, top: int, bottom: int) -> int:
        if bottom == 0:
            raise Undefined("division by zero")
        return top * pow(bottom, -1, PRIME) % PRIME


def fingerprint(node: Node, budget: Budget) -> tuple[int, bool]:
    """The residue and whether it decides inequality."""
    walker = Fingerprint(budget)
    residue = walker.of(node)

    return residue, walker.pure
