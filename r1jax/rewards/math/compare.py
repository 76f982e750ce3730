"""Equality of two answers: the rules for every shape, from the outside in, and scalars last."""

from __future__ import annotations

from r1jax.rewards.math.comparer import Comparer, Rule
from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.matrices import reduce_matrix
from r1jax.rewards.math.measures import (
    match_clocks,
    match_congruences,
    match_degrees,
    match_matrices,
    match_numerals,
    match_percentages,
    match_quantities,
    match_ratios,
    match_texts,
)
from r1jax.rewards.math.nodes import (
    DOTS,
    Builder,
    Chain,
    Clock,
    Interval,
    Matrix,
    Node,
    Seq,
    Sym,
)
from r1jax.rewards.math.scalars import scalars_equal
from r1jax.rewards.math.sequences import match_collections
from r1jax.rewards.math.statements import (
    match_approximations,
    match_chains,
    match_domains,
    match_labels,
    match_regions,
    match_signs,
)


def answers_equal(gold: Node, pred: Node, budget: Budget) -> bool:
    """Whether two answers are the same. Raises `TooCostly` or `Undefined` if that is not clear."""
    return _compare(gold, pred, Comparer(budget, _compare))


def _compare(gold: Node, pred: Node, c: Comparer) -> bool:
    c.budget.charge()
    if gold == pred:
        return True
    gold, pred = reduce_matrix(gold), reduce_matrix(pred)
    for rule in _RULES:
        verdict = rule(gold, pred, c)
        if verdict is not None:
            return verdict
    return scalars_equal(gold, pred, c.budget)


def match_shapeless(gold: Node, pred: Node, c: Comparer) -> bool | None:
    """Shapes without a value, when no rule for them has spoken: equal only if identical."""
    for node in (gold, pred):
        if isinstance(node, Interval | Builder | Chain | Seq | Matrix | Clock):
            return False
        if isinstance(node, Sym) and (node == DOTS or node.name.startswith("set:")):
            return False
    return None


# A rule answers for the pairs of its shape and returns None for all others.
_RULES: tuple[Rule, ...] = (
    match_approximations,
    match_domains,
    match_signs,
    match_texts,
    match_clocks,
    match_labels,
    match_regions,
    match_matrices,
    match_collections,
    match_chains,
    match_ratios,
    match_congruences,
    match_quantities,
    match_numerals,
    match_degrees,
    match_percentages,
    match_shapeless,
)
