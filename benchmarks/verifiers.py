"""Accuracy and speed of the math verifier, beside math-verify where that is installed.

    python benchmarks/verifiers.py [--cases FILE.jsonl] [--peer] [--wrong] [--code]

A case is a JSON line with gold, pred, equal and kind. Both verifiers get the same strings in one
process, one call a case. `--code` counts small programs a second at every sandbox level instead.
Write the numbers down together with the machine that they come from.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1jax.rewards import code, math
from r1jax.rewards.code import levels

CASES = Path(__file__).parent.parent / "tests" / "rewards" / "data" / "math_dev.jsonl"
INTEGERS = 3000
PROSE = "We add the two numbers, carry the one, and check the sum by subtraction. " * 30

Case = dict[str, Any]
Verify = Callable[[Case], bool | None]


@dataclass(frozen=True)
class Result:
    case: Case
    correct: bool | None
    seconds: float

    @property
    def right(self) -> bool:
        return self.correct is self.case["equal"]


def ours(case: Case) -> bool | None:
    return math.verify(case["pred"], case["gold"]).correct


def make_math_verify() -> Verify:
    """math-verify as it comes. Bare answers and golds are put between dollars, where
    it looks for LaTeX; a pair that it cannot parse that way is parsed as it stands.
    """
    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]

    def read(text: str, *, bare: bool) -> list[Any]:
        return (parse(f"${text}$") if bare else []) or parse(text)

    def call(case: Case) -> bool | None:
        try:
            gold = read(case["gold"], bare=True)
            pred = read(case["pred"], bare=case.get("form") == "a")
            return bool(verify(gold, pred)) if gold else None
        except Exception:  # noqa: BLE001 - a peer's failure is a wrong verdict, and no more
            return None

    return call


def measure(verify: Verify, cases: list[Case]) -> list[Result]:
    results = []
    for case in cases:
        start = time.perf_counter()
        correct = verify(case)
        results.append(Result(case, correct, time.perf_counter() - start))
    return results


def integer_rate(verify: Verify) -> float:
    """Boxed integers at the end of two kilobytes of prose, answers per second."""
    start = time.perf_counter()
    for i in range(INTEGERS):
        verify({"pred": f"{PROSE}\\boxed{{{i}}}", "gold": str(i + i % 2)})
    return INTEGERS / (time.perf_counter() - start)


def quantile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


def report(name: str, results: list[Result], integers: float) -> None:
    unequal = [r for r in results if not r.case["equal"]]
    equal = [r for r in results if r.case["equal"]]
    false_positive = sum(r.correct is True for r in unequal)
    false_negative = sum(r.correct is not True for r in equal)
    ordinary = [r.seconds for r in results if r.case["kind"] != "hang"]
    print(f"{name}: {len(results)} cases")
    print(f"  accuracy        {sum(r.right for r in results) / len(results):.4f}")
    print(f"  false positives {false_positive} of {len(unequal)}")
    print(f"  false negatives {false_negative} of {len(equal)}")
    print(f"  ordinary        {len(ordinary) / sum(ordinary):.0f} cases/s")
    print(f"  integers        {integers:.0f} answers/s")
    times = [r.seconds for r in results]
    shown = {"median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    print("  " + ", ".join(f"{k} {1e3 * quantile(times, q):.2f} ms" for k, q in shown.items()))


def report_kinds(columns: dict[str, list[Result]]) -> None:
    """Accuracy per kind, one column per verifier."""
    kinds: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for name, results in columns.items():
        for result in results:
            kinds[result.case["kind"]][name].append(result.right)
    print(f"\n{'kind':<24}{'cases':>6}" + "".join(f"{name:>14}" for name in columns))
    for kind, by_name in sorted(kinds.items()):
        count = len(next(iter(by_name.values())))
        shares = (sum(by_name[name]) / count for name in columns)
        print(f"{kind:<24}{count:>6}" + "".join(f"{share:>14.3f}" for share in shares))


def report_code(runs: int = 200) -> None:
    """Small programs a second, from an idle start."""
    tests = {"type": "stdin", "cases": [{"input": "2", "output": "4"}]}
    job = code.Job("print(2 * int(input()))", tests)
    for level in (3, 2, 1):
        if failure := levels.failure_of(level):
            print(f"code, level {level}: {failure}")
            continue
        start = time.perf_counter()
        verdicts = code.run_batch([job] * runs, level=level)
        seconds = time.perf_counter() - start
        passed = sum(verdict.status == "pass" for verdict in verdicts)
        print(f"code, level {level}: {runs / seconds:.0f} runs/s, {passed} of {runs} pass")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--cases", type=Path, default=CASES)
    options.add_argument("--peer", action="store_true", help="measure math-verify too")
    options.add_argument("--wrong", action="store_true", help="print the cases that we get wrong")
    options.add_argument("--code", action="store_true", help="measure the sandboxes instead")
    chosen = options.parse_args()
    if chosen.code:
        report_code()
        return
    lines = chosen.cases.read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines if line]
    verifiers: dict[str, Verify] = {"r1jax": ours}
    if chosen.peer:
        verifiers["math-verify"] = make_math_verify()
    columns: dict[str, list[Result]] = {}
    for name, verify in verifiers.items():
        verify({"pred": "\\boxed{x+1}", "gold": "1+x"})  # imports and caches
        columns[name] = measure(verify, cases)
        report(name, columns[name], integer_rate(verify))
    report_kinds(columns)
    if chosen.wrong:
        for result in columns["r1jax"]:
            if not result.right:
                print(json.dumps(result.case, ensure_ascii=False), result.correct)


if __name__ == "__main__":
    main()
