"""Tests as data → cases for a backend, each with the judgement of its outcome."""

import builtins
import dataclasses
import functools
import json
import marshal
import secrets
import signal
from collections.abc import Callable
from typing import Any

from r1jax.rewards.code import answers, compare, steps
from r1jax.rewards.code.sandbox import Case, Outcome, SandboxError
from r1jax.rewards.code.verdict import Status

_OUT_OF_MEMORY = (b"MemoryError", b"std::bad_alloc")


class BadTests(ValueError):
    """The tests themselves are broken: nothing can be said about a program."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    status: Status
    passed: tuple[bool, ...]  # one for each test of the case: an assert script has several
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Check:
    case: Case
    judge: Callable[[Outcome], Judgement]
    size: int = 1  # tests in this case
    follow_up: Callable[[Outcome], Case] | None = None  # a checker program, if `judge` lets pass


def make_checks(
    program: str, tests: dict[str, Any], *, language: str, environ: dict[str, str]
) -> list[Check]:
    """The cases of a program; `BadTests` when the tests cannot be understood."""
    source = program.encode("utf-8", "surrogatepass")
    make_case = functools.partial(Case, program=source, environ=environ)
    try:
        if language not in ("python", "cpp"):
            raise BadTests(f"unknown language {language!r}")
        kind = tests["type"]
        tolerance = None if tests.get("float_tol") is None else float(tests["float_tol"])
        if kind == "stdin":
            runs_as = "script" if language == "python" else language
            if "checker" in tests:
                checker = str(tests["checker"])
                return [_checker_check(make_case, runs_as, c, checker) for c in tests["cases"]]
            return [_stdin_check(make_case, runs_as, c, tolerance) for c in tests["cases"]]
        if language != "python":
            raise BadTests(f"{kind} tests need a Python program, not {language}")
        if kind == "function":
            return [
                _function_check(make_case, tests["fn_name"], c, tolerance) for c in tests["cases"]
            ]
        if kind == "assert":
            return [_assert_check(make_case, tests["code"])]
        raise BadTests(f"unknown type of tests: {kind!r}")
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError, RecursionError) as error:
        raise BadTests(f"bad tests: {type(error).__name__}: {error}"[:200]) from error


def problem_of_tests(tests: dict[str, Any], language: str = "python") -> str:
    """What is wrong with tests, without running anything; empty where nothing is."""
    try:
        checks = make_checks("", tests, language=language, environ={})
    except BadTests as error:
        return str(error)
    return "" if checks else "there are no tests"


def _stdin_check(
    make_case: Callable[..., Case], kind: str, test: dict[str, Any], tolerance: float | None
) -> Check:
    given, expected = _texts(test)

    def judge(outcome: Outcome) -> Judgement:
        if ending := _judge_end(outcome, 1):
            return ending
        got = outcome.stdout.decode("utf-8", "surrogateescape")
        difference = compare.difference_of_outputs(got, expected, tolerance)
        return _one(difference is None, difference or "")

    return Check(make_case(kind, stdin=given), judge)


def _checker_check(
    make_case: Callable[..., Case], kind: str, test: dict[str, Any], checker: str
) -> Check:
    """For problems with several right answers; the checker runs after the program is gone."""

    given, expected = _texts({"output": "", **test})

    def judge(outcome: Outcome) -> Judgement:
        return _judge_end(outcome, 1) or Judgement("pass", (True,))

    def follow_up(outcome: Outcome) -> Case:
        output = outcome.stdout.decode("utf-8", "replace")
        facts = {"input": test["input"], "output": output, "expected": expected}
        return Case("script", program=checker.encode(), stdin=json.dumps(facts).encode())

    return Check(make_case(kind, stdin=given), judge, follow_up=follow_up)


def _texts(test: dict[str, Any]) -> tuple[bytes, str]:
    """Standard input as bytes, and the expected output."""
    given, expected = test["input"], test["output"]
    if not isinstance(given, str) or not isinstance(expected, str):
        raise TypeError("input and output must be text")
    return given.encode("utf-8", "surrogatepass"), expected


def judge_checker(outcome: Outcome) -> Judgement:
    """Exit status 0 accepts and 1 rejects; anything else means that the checker itself failed."""
    if outcome.end != "exit" or outcome.code not in (0, 1) or _ran_out_of_memory(outcome):
        raise SandboxError(f"the checker program failed: {outcome.end}, status {outcome.code}")
    return _one(outcome.code == 0, "the checker rejects the output")


def _function_check(
    make_case: Callable[..., Case], name: str, test: dict[str, Any], tolerance: float | None
) -> Check:
    expected = test["expected"]
    request, nonce = _make_request([{"function": name, "arguments": test["args"]}])

    def judge(outcome: Outcome) -> Judgement:
        if ending := _judge_end(outcome, 1):
            return ending
        try:
            (answer,) = _read_answers(outcome.result, nonce, 1)
        except ValueError:
            return Judgement("error", (False,), "no valid result")
        if isinstance(answer, answers.Refused):
            return _one(False, "the result is not of a plain type")
        return _one(compare.equal_values(answer, expected, tolerance), "wrong result")

    return Check(make_case("answer", request=request), judge)


def _assert_check(make_case: Callable[..., Case], code: str) -> Check:
    plan = steps.plan_asserts(code)
    total = len(plan.checks)
    request, nonce = _make_request(plan.steps)

    def judge(outcome: Outcome) -> Judgement:
        if ending := _judge_end(outcome, total):
            return ending
        try:
            found = _read_answers(outcome.result, nonce, total)
        except ValueError:
            return Judgement("error", (False,) * total, "no valid result")
        passed = tuple(
            not isinstance(answer, answers.Refused) and check(answer)
            for answer, check in zip(found, plan.checks, strict=True)
        )
        if all(passed):
            return Judgement("pass", passed)
        return Judgement("fail", passed, f"assert {passed.index(False) + 1} fails")

    return Check(make_case("answer", request=request), judge, total)


def _one(passed: bool, reason: str) -> Judgement:
    return Judgement("pass", (True,)) if passed else Judgement("fail", (False,), reason)


def _make_request(questions: list[dict[str, Any]]) -> tuple[bytes, str]:
    nonce = secrets.token_hex(16)
    return marshal.dumps({"nonce": nonce, "steps": questions}, 4), nonce


def _read_answers(message: bytes, nonce: str, count: int) -> list[Any]:
    """The values after the nonce, exactly as many as were asked for; ValueError otherwise."""
    head, *lines = message.decode("ascii").split("\n")
    if not secrets.compare_digest(head, nonce) or len(lines) != count:
        raise ValueError("not our message")
    return [answers.decode(line) for line in lines]


def _judge_end(outcome: Outcome, total: int) -> Judgement | None:
    """The judgement when the program did not end well; None when its answer decides."""
    none_passed = (False,) * total
    if outcome.end == "timeout" or outcome.code == -signal.SIGXCPU:
        return Judgement("timeout", none_passed, "time limit")
    if outcome.end == "memory" or (outcome.code != 0 and _ran_out_of_memory(outcome)):
        return Judgement("memory", none_passed, "memory limit")
    if outcome.end == "output":
        return Judgement("error", none_passed, "output limit")
    if outcome.end == "compile":
        return Judgement("error", none_passed, "does not compile")
    if outcome.code < 0:
        return Judgement("error", none_passed, f"signal {-outcome.code}")
    if outcome.code > 0:
        return Judgement("error", none_passed, f"exit status {outcome.code}{_exception(outcome)}")
    return None


def _ran_out_of_memory(outcome: Outcome) -> bool:
    return any(name in outcome.stderr[-2000:] for name in _OUT_OF_MEMORY)


def _exception(outcome: Outcome) -> str:
    """The name of a built-in exception that ended the program; no text of the program's own."""
    for line in reversed(outcome.stderr[-2000:].decode("utf-8", "replace").splitlines()):
        name = line.partition(":")[0]
        kind = getattr(builtins, name, None) if name.isidentifier() else None
        if isinstance(kind, type) and issubclass(kind, BaseException):
            return f" ({name})"
    return ""
