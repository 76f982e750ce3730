"""What the rules of equality share: the budget, and how to compare parts."""

from __future__ import annotations

from collections.abc import Callable

from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.nodes import Node, Undefined


class Comparer:
    """One comparison under one budget; `compare` is the whole chain of rules, for the parts of a
    value.
    """

    def __init__(self, budget: Budget, compare: Callable[[Node, Node, Comparer], bool]) -> None:
        self.budget = budget
        self._compare = compare

    def equal(self, gold: Node, pred: Node) -> bool:
        """Raises `TooCostly` or `Undefined` if it cannot be told."""
        return self._compare(gold, pred, self)

    def tolerant(self, gold: Node, pred: Node) -> bool:
        """Parts without a value differ from everything but themselves."""
        try:
            return self.equal(gold, pred)
        except Undefined:
            return False


Rule = Callable[[Node, Node, Comparer], bool | None]
