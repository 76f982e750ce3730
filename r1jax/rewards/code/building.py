"""Make test cases for a problem that has only programs (R1, supplement B.3).

1. Generator programs print candidate inputs: each runs with the numbers 0, 1, … on its stdin.
2. Correct submissions remove invalid candidates: all of them must end well and agree.
3. Wrong submissions choose: greedily the input that unmasks most of those not yet unmasked.

Everything runs in the sandbox. The same programs give the same tests, unless one of them draws
random numbers without a seed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from r1jax.rewards.code.compare import difference_of_outputs
from r1jax.rewards.code.run import run_inputs
from r1jax.rewards.code.sandbox import Outcome


@dataclasses.dataclass(frozen=True)
class BuiltTests:
    tests: dict[str, Any]  # for `run_tests`
    candidates: int  # distinct inputs that the generators printed
    valid: int  # … on which the correct submissions agree
    survivors: tuple[int, ...]  # wrong submissions that pass every valid candidate


def build_tests(
    generators: Sequence[str],
    correct: Sequence[str],
    wrong: Sequence[str],
    *,
    seeds: int = 20,
    max_tests: int = 20,
    tolerance: float | None = None,
    **options: Any,
) -> BuiltTests:
    """Tests of type stdin; `options` as in `run_inputs` (language of the submissions, limits)."""
    if not correct:
        raise ValueError("at least one correct submission is needed: it gives the outputs")
    inputs = _make_candidates(generators, seeds, options)
    answers = [run_inputs(program, inputs, **options) for program in correct]
    valid: list[tuple[str, str]] = []
    for number, text in enumerate(inputs):
        output = _agreed_output([a[number] for a in answers], tolerance)
        if output is not None:
            valid.append((text, output))
    kills = [_unmasked_by(program, valid, tolerance, options) for program in wrong]
    chosen = choose([text for text, _ in valid], kills, max_tests)
    cases = [{"input": valid[i][0], "output": valid[i][1]} for i in chosen]
    tests: dict[str, Any] = {"type": "stdin", "cases": cases}
    if tolerance is not None:
        tests["float_tol"] = tolerance
    survivors = tuple(number for number, killed in enumerate(kills) if not killed)
    return BuiltTests(tests, len(inputs), len(valid), survivors)


def choose(inputs: Sequence[str], kills: Sequence[set[int]], max_tests: int) -> list[int]:
    """Indices of the inputs to keep; `kills[w]` are those on which wrong submission `w` fails.

    First a greedy cover of the wrong submissions; then, up to `max_tests`, the inputs that unmask
    most. Ties go to the shorter input, then the earlier.
    """
    alive = set(range(len(kills)))
    left = set(range(len(inputs)))
    chosen: list[int] = []

    def gain(index: int, among: set[int]) -> int:
        return sum(index in kills[w] for w in among)

    def best(among: set[int]) -> int:
        return min(left, key=lambda i: (-gain(i, among), len(inputs[i]), i))

    while left and len(chosen) < max_tests:
        index = best(alive)
        if not gain(index, alive):
            alive = set()  # all are covered or out of reach; now every one counts again
            index = best(set(range(len(kills))))
        chosen.append(index)
        left.remove(index)
        alive -= {w for w in alive if index in kills[w]}
    return sorted(chosen)


def _make_candidates(generators: Sequence[str], seeds: int, options: dict[str, Any]) -> list[str]:
    """Distinct outputs of the generators (Python programs), in order."""
    options = {**options, "language": "python"}
    found: dict[str, None] = {}
    for generator in generators:
        for outcome in run_inputs(generator, [f"{seed}\n" for seed in range(seeds)], **options):
            text = _text_of(outcome)
            if text is not None:
                found[text] = None
    return list(found)


def _agreed_output(outcomes: Sequence[Outcome], tolerance: float | None) -> str | None:
    """What all correct submissions print; None if one fails or differs: the input is invalid."""
    texts = [_text_of(outcome) for outcome in outcomes]
    first = texts[0]
    if first is None:
        return None
    for text in texts[1:]:
        if text is None or difference_of_outputs(text, first, tolerance):
            return None
    return first


def _unmasked_by(
    program: str,
    valid: Sequence[tuple[str, str]],
    tolerance: float | None,
    options: dict[str, Any],
) -> set[int]:
    """The valid inputs on which a wrong submission fails in any way."""
    outcomes = run_inputs(program, [text for text, _ in valid], **options)
    failed = set()
    for number, (outcome, (_, expected)) in enumerate(zip(outcomes, valid, strict=True)):
        text = _text_of(outcome)
        if text is None or difference_of_outputs(text, expected, tolerance):
            failed.add(number)
    return failed


def _text_of(outcome: Outcome) -> str | None:
    """The output of a program that ended well, if it is text."""
    if outcome.end != "exit" or outcome.code != 0:
        return None
    try:
        return outcome.stdout.decode("utf-8")
    except UnicodeDecodeError:
        return None
