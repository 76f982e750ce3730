"""Rule-based checking of mathematical answers: is the answer in this response equal to the gold?

    from r1jax.rewards import math
    math.verify("… so \\boxed{\\tfrac12}", "0.5").correct          # True, False, or None: mask
    math.verify_batch(pairs, workers=8, timeout_s=2.0, deadline_s=60.0)
    math.lint_gold("1,000")                                       # before training on a gold

A response goes through `extract` (where is the answer stated), `clean`, `tokens` and `parser` (a
closed grammar; no text is ever evaluated), and the rules of `compare`, from shapes (`statements`,
`sequences`, `measures`, `regions`) down to `scalars` (exact, modulo a prime, at points).

What counts as equal: the last box wins; boxes joined by "and", "or" or a comma are a list; bare
lists are unordered, bracketed ones ordered; labels (x =, f(x) =, area:) are dropped unless both
sides have one; intervals, inequalities and set builders are sets of reals; a missing unit is
forgiven, a wrong one is not, convertible ones are converted; a percentage is its hundredth and a
degree its radians; variables are positive reals; there is no tolerance beyond twelve printed
digits. In doubt the verdict is False: a false positive is what training would find.

Expressions are our own immutable nodes and not sympy's, whose constructors already evaluate 9**9**9
and whose simplifier has no bound in time; see `scalars` for why none is needed and `guard` for the
bounds. That is why `verify` is safe in any thread without a clock. Nothing here imports jax.
"""

from r1jax.rewards.math.answers import parse
from r1jax.rewards.math.batch import verify_batch
from r1jax.rewards.math.extract import Extraction, extract_answer
from r1jax.rewards.math.grader import GoldReport, Verdict, lint_gold, verify

__all__ = [
    "Extraction",
    "GoldReport",
    "Verdict",
    "extract_answer",
    "lint_gold",
    "parse",
    "verify",
    "verify_batch",
]
