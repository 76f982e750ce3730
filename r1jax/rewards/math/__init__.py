"""Rule-based checking of mathematical answers. Imports neither jax nor anything that evaluates
text.
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
