"""From a verdict to a number. None masks the sample: we could not tell."""

from collections.abc import Sequence
from typing import Any, Literal

from r1jax.rewards.code.extract import last_block
from r1jax.rewards.code.run import run_tests
from r1jax.rewards.code.verdict import CodeVerdict

NO_BLOCK = "no closed code block"


def grade(
    response: str, tests: dict[str, Any], *, language: str = "python", **options: Any
) -> CodeVerdict:
    """The verdict about the program in a whole response; `options` as in `run_tests`."""
    program = last_block(response, language)
    if program is None:
        return CodeVerdict("fail", 0, 0, NO_BLOCK, 0.0)
    return run_tests(program, tests, language=language, **options)


def binary(verdict: CodeVerdict) -> float | None:
    """1 if every test passed, else 0."""
    return None if verdict.status == "infra" else float(verdict.status == "pass")


def fraction(verdict: CodeVerdict) -> float | None:
    """The share of tests that passed; run with `stop_early=False`."""
    if verdict.status == "infra":
        return None
    return verdict.passed / verdict.total if verdict.total else 0.0


def tiered(
    verdict: CodeVerdict,
    tiers: Sequence[int],
    *,
    scores: Sequence[float] | None = None,
    kind: Literal["strict", "soft"] = "strict",
) -> float | None:
    """Difficulty tiers of MiMo-7B (2505.07608): l = 0, 1, … from easy to hard, worth s_l each.

        strict = sum_l s_l * prod_{k <= l} [all tests of tier k pass]
        soft   = sum_l s_l * (passed tests of tier l) / (tests of tier l)

    `tiers` gives the tier of each test; `scores` s_l (default: equal, with sum 1). Run with
    `stop_early=False`; a test without a result has not passed.
    """
    if verdict.status == "infra":
        return None
    count = max(tiers) + 1
    weights = [1 / count] * count if scores is None else scores
    passed = list(verdict.cases) + [False] * (len(tiers) - len(verdict.cases))
    shares = []
    for tier in range(count):
        results = [ok for ok, t in zip(passed, tiers, strict=True) if t == tier]
        shares.append(sum(results) / len(results) if results else 1.0)
    if kind == "soft":
        return sum(w * share for w, share in zip(weights, shares, strict=True))
    total = 0.0
    for weight, share in zip(weights, shares, strict=True):
        if share < 1:
            break
        total += weight
    return total


def tiers_by_pass_rate(pass_rates: Sequence[float], count: int) -> list[int]:
    """Tests into `count` tiers of equal size: 0 for those that most sampled programs pass.

    Tests with the same pass rate stay together, in the easier of their tiers.
    """
    ranked = sorted(pass_rates, reverse=True)
    return [ranked.index(rate) * count // len(ranked) for rate in pass_rates]
