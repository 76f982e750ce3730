"""Are these references fit to be trained on? Each is judged against itself, by who will judge it.

A record is {"question", "answer", "task"} and, of code, {"tests", "language", "options"…}; of code
the answer, if any, is a program that must pass the tests. What fails is never learned from (its
samples are masked, or never right); what is only flagged deserves a look.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.data.tasks import make_task
from r1jax.errors import UserError
from r1jax.rewards import choice, code, logic, math, verifiers
from r1jax.rewards.samples import Item

_RUNNING = ("running_sum", "parity")  # judged by the answer: the question is worked out
_WORKINGS = 200  # a chain of thought of the tiny tasks may give up: more than ever are needed


@dataclasses.dataclass(frozen=True)
class Finding:
    """`failed` says why a record cannot be used; `flags` what is doubtful about it."""

    task: str
    failed: str = ""
    flags: tuple[str, ...] = ()


def parse_line(line: bytes) -> tuple[Item | None, str]:
    """The record of a line of JSON, or what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 at byte {error.start}"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    if not isinstance(record, dict):
        return None, f"not a JSON object but {type(record).__name__}"
    return record, ""


def lint(record: Item, routes: Mapping[str, str]) -> Finding:
    """One record; a program among the references is run in the sandbox."""
    task = str(record.get("task") or verifiers.DEFAULT)
    problem = _shape_problem(record)
    if problem:
        return Finding(task, problem)
    try:
        name = verifiers.name_of(record, routes)
    except UserError as error:
        return Finding(task, str(error))
    record = {**record, "answer": verifiers.reference(record)}
    if name == "code":
        return Finding(task, *_lint_code(record))
    if name == "math":
        report = math.lint_gold(record["answer"])
        failed = next((f for f in report.flags if f.startswith(("not eq", "unp", "empty"))), "")
        return Finding(task, "" if report.ok else failed, report.flags if report.ok else ())
    return Finding(task, _LINTS.get(name, _lint_task)(record, name))


def _shape_problem(record: Item) -> str:
    question, answer = record.get("question"), record.get("answer")
    if "messages" not in record and (not isinstance(question, str) or not question.strip()):
        return f'no text in "question"; its fields: {", ".join(map(str, record)) or "none"}'
    if answer is not None and type(answer) not in (str, int):
        return f'"answer" is of type {type(answer).__name__}, text is wanted'
    return ""


def _lint_choice(record: Item, name: str) -> str:
    del name
    right = choice.verify(
        f"The answer is {record['answer']}",
        record["answer"],
        options=verifiers.options_of(record),
    )
    return {None: "names no option", False: "not equal to itself", True: ""}[right]


def _lint_logic(record: Item, name: str) -> str:
    puzzle = record.get("puzzle", name)
    if puzzle not in logic.SCORES:
        return f"no such puzzle {puzzle!r}; there are {', '.join(logic.SCORES)}"
    try:
        score = logic.score(record["answer"], {**record, "puzzle": puzzle})
    except (KeyError, TypeError, ValueError) as error:
        return f"what the checker of {puzzle} needs is missing or wrong: {error}"
    return "" if score == 1.0 else "its answer does not solve it"


def _lint_task(record: Item, name: str) -> str:
    task, answer = make_task(name), record["answer"]
    question = {key: value for key, value in record.items() if key != "answer"}
    try:
        if name in _RUNNING:
            sums, _ = task.working(record, np.random.default_rng(0))
            right = sums[-1:] == answer.strip()
        else:
            right = task.is_correct(answer, question)
    except (KeyError, TypeError, ValueError) as error:
        return f"what the checker of {name} needs is missing or wrong: {error}"
    return "" if right else "its answer is not right"


_LINTS = {"choice": _lint_choice, "logic": _lint_logic, **dict.fromkeys(logic.SCORES, _lint_logic)}
del _LINTS["countdown"]  # by that name the tiny task is meant, as in `verifiers`


def _lint_code(record: Item) -> tuple[str, tuple[str, ...]]:
    """(why it fails, flags) of tests and, if there is one, of the program that answers them."""
    tests, language = record.get("tests"), str(record.get("language", "python"))
    if not isinstance(tests, Mapping):
        return 'no "tests"', ()
    problem = code.problem_of_tests(dict(tests), language)
    if problem:
        return problem, ()
    program = code.last_block(record["answer"], language) or record["answer"]
    if not program.strip():
        return "", ("no program",)
    verdict = code.run_tests(program, dict(tests), language=language)
    if verdict.status == "infra":
        return f"the tests cannot be run: {verdict.reason}", ()
    return "" if verdict.status == "pass" else f"its program fails: {verdict.reason}", ()


def lint_item(item: dict[str, Any]) -> dict[str, Any]:
    """For a worker process."""
    return dataclasses.asdict(lint(item["record"], item["routes"]))


def drawn(task: str, count: int, seed: int) -> Sequence[Item]:
    """Questions of a tiny task with an answer that its own working finds."""
    family = make_task(task)
    records = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        item = family.draw(rng)
        answer = ""
        for _ in range(_WORKINGS):
            answer = family.working(item, rng)[1]
            if family.is_correct(answer, item):
                break
        records.append({**item, "answer": answer, "task": task})
    return records
