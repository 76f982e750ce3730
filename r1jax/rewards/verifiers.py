"""Who judges the accuracy of an item: the verifier that its task or domain names.

Cheap verifiers answer at once; mathematics beyond plain integers goes to a worker process, programs
go to a sandbox. `grader` sees to that; the functions here say what to run, and read what came back.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.data.tasks import TASKS, make_task
from r1jax.errors import UserError
from r1jax.rewards import choice, code, logic
from r1jax.rewards.math import batch as math_batch
from r1jax.rewards.math import extract, grader
from r1jax.rewards.pool import Outcome
from r1jax.rewards.samples import Item, Judgement, Sample

DEFAULT = "math"
CODE_SERVICES = ("local", "sandbox_fusion", "piston")
CODE_KINDS = ("binary", "fraction", "tiers_strict", "tiers_soft")


def name_of(item: Item, routes: Mapping[str, str]) -> str:
    """The verifier of an item: of its task, else of its domain, each first looked up in routes."""
    said = [str(item[key]) for key in ("task", "domain") if item.get(key)]
    if not said and "puzzle" in item:
        return "logic"
    for name in said or [DEFAULT]:
        name = routes.get(name, name)
        if name in KNOWN:
            return name
    raise UserError(
        f"task {said[0]!r}: nobody judges it; known: {', '.join(KNOWN)}. Say who does: "
        f"grading.verifiers.{said[0]}=math, for example"
    )


def task_of(item: Item) -> str:
    """What an item is counted and rewarded as."""
    return str(item.get("task") or item.get("domain") or DEFAULT)


# at once


def at_once(sample: Sample, name: str) -> Judgement:
    """The verdict of a cheap verifier; an item that lacks what it needs masks."""
    try:
        return AT_ONCE[name](sample, name)
    except (KeyError, TypeError, ValueError) as error:
        why = f"the item lacks what {name} needs: {type(error).__name__} {error}"
        return Judgement(None, status="gold", detail=why)


def reference(item: Item) -> str:
    answer = item.get("answer")
    return "" if answer is None else str(answer)


def by_task(sample: Sample, name: str) -> Judgement:
    """A procedural task: the answer of a well-formed response, exactly."""
    response = sample.response
    if response is None:
        return Judgement(0.0)
    return _right_or_wrong(_checker(name)(response.answer, sample.item), response.answer)


@functools.cache
def _checker(name: str) -> Callable[[str, Item], bool]:
    return make_task(name).is_correct


def by_choice(sample: Sample, name: str) -> Judgement:
    del name
    options = options_of(sample.item)
    right = choice.verify(sample.text, reference(sample.item), options=options)
    if right is None:
        return Judgement(None, status="gold", detail="the gold names no option")
    chosen = choice.extract(sample.text, options=options)
    if chosen is None:
        return Judgement(0.0, status="unparsed")
    return _right_or_wrong(right, "".join(sorted(chosen)))


def options_of(item: Item) -> dict[str, str] | None:
    """An item's options by letter; a list is A, B, C, …"""
    options = item.get("options")
    if not options:
        return None
    if isinstance(options, Mapping):
        return {str(letter): str(text) for letter, text in options.items()}
    return dict(zip(choice.LETTERS, map(str, options), strict=False))


def by_logic(sample: Sample, name: str) -> Judgement:
    puzzle = sample.item.get("puzzle", name)
    if puzzle not in logic.SCORES:
        known = ", ".join(logic.SCORES)
        raise UserError(f"item of task logic: no such puzzle {puzzle!r}; there are {known}")
    score = logic.score(sample.text, {**sample.item, "puzzle": puzzle})
    return _right_or_wrong(score == 1.0, None)


def quick_math(sample: Sample) -> tuple[extract.Extraction, Judgement | None]:
    """What is to be compared, and the verdict where that needs no parser."""
    found = extract.extract_answer(sample.text)
    verdict = grader.quick_verdict(found, reference(sample.item))
    return found, None if verdict is None else read_math(verdict)


def _right_or_wrong(right: bool, answer: str | None) -> Judgement:
    return Judgement(float(right), right, answer)


# elsewhere


def math_item(sample: Sample, found: extract.Extraction, timeout_s: float) -> dict[str, Any]:
    return {"math": math_batch.as_item(found, reference(sample.item), timeout_s)}


def read_math(verdict: grader.Verdict) -> Judgement:
    if verdict.correct is None:
        status = "gold" if verdict.reason.startswith("gold") else "error"
        return Judgement(None, status=status, detail=verdict.reason)
    status = "unparsed" if verdict.reason.startswith("answer:") else "ok"
    return Judgement(float(verdict.correct), verdict.correct, verdict.parsed, status)


def read_outcome(outcome: Outcome, read: Callable[[Any], Judgement]) -> Judgement:
    """Of a worker process; whatever went wrong there masks the sample."""
    if outcome.status == "ok":
        judgement = read(outcome.value)
    else:
        judgement = Judgement(None, status=outcome.status, detail=outcome.detail)
    return dataclasses.replace(judgement, cached=outcome.cached, queue_s=outcome.queue_seconds)


def judge_code(
    sample: Sample,
    *,
    kind: str = "binary",
    language: str = "python",
    backend: Any = None,
    service: str = "local",
    url: str = "",
    **limits: Any,
) -> Judgement:
    """Run the program of a response on the item's tests. Takes its time: for threads.

    `service` and `url` say what the caller makes the `backend` of.
    """
    del service, url
    tests = sample.item.get("tests")
    if not isinstance(tests, Mapping):
        return Judgement(None, status="gold", detail="the item has no tests")
    verdict = code.grade(
        sample.text,
        dict(tests),
        language=str(sample.item.get("language", language)),
        stop_early=kind == "binary",
        backend=backend,
        **limits,
    )
    if verdict.status == "infra":
        return Judgement(None, status="infra", detail=verdict.reason)
    status = "unparsed" if verdict.reason == code.NO_BLOCK else "ok"
    return Judgement(_code_score(verdict, kind, tests), verdict.status == "pass", status=status)


def _code_score(verdict: code.CodeVerdict, kind: str, tests: Mapping[str, Any]) -> float | None:
    if kind == "binary":
        return code.binary(verdict)
    if kind == "fraction":
        return code.fraction(verdict)
    return code.tiered(verdict, tests["tiers"], kind="soft" if kind.endswith("soft") else "strict")


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Of the verifiers only `code` has any: see `judge_code`, and the limits of `run_tests`."""
    if name != "code":
        raise UserError(f"grading.settings.{name}: this verifier has no settings")
    limits = inspect.signature(code.run_tests).parameters
    not_for_configs = {"program", "tests", "stop_early", "backend", "env"}
    known = {"kind", "service", "url"} | (set(limits) - not_for_configs)
    for key in settings:
        if key not in known:
            there_are = ", ".join(sorted(known))
            raise UserError(f"grading.settings.code.{key}: no such setting; known: {there_are}")
    for key, choices in {"kind": CODE_KINDS, "service": CODE_SERVICES}.items():
        if settings.get(key, choices[0]) not in choices:
            raise UserError(
                f"grading.settings.code.{key}={settings[key]!r}: must be one of "
                + ", ".join(choices)
            )
    if settings.get("service", "local") != "local" and not settings.get("url"):
        raise UserError("grading.settings.code.url: the service needs one, http://host:port")


AT_ONCE: Mapping[str, Callable[[Sample, str], Judgement]] = {
    "choice": by_choice,
    "logic": by_logic,
    **dict.fromkeys(logic.SCORES, by_logic),
    **dict.fromkeys(TASKS, by_task),  # of "countdown" the tiny task; with "puzzle", task=logic
}
KNOWN: Sequence[str] = ("math", "code", *AT_ONCE)
