"""Verify the references of a data set before training on it: each must be right by its own judge.

A line of FILE.jsonl is an object with "question" and "answer", perhaps "task" (math if not said;
code, choice, logic, a puzzle, a tiny task) and, for code, "tests". Instead of a file, the name of
a tiny task draws questions from it. Exit code 1 where a record fails; --json prints all findings.

r1jax lint-data train.jsonl --route=gsm8k=math
r1jax lint-data train.jsonl --flags               what is merely doubtful is listed too
r1jax lint-data countdown --count=500
"""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import flags

from r1jax.cli.flags import parse
from r1jax.data.tasks import TASKS
from r1jax.errors import UserError
from r1jax.rewards import lint, verifiers
from r1jax.rewards.lint import Finding
from r1jax.rewards.pool import Outcome, Pool
from r1jax.rewards.samples import Item

FLAGS = flags.FlagValues()
flags.DEFINE_multi_string(
    "route", [], "TASK=VERIFIER: who judges a task of yours; repeat for more", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "one JSON object with every finding", flag_values=FLAGS)
flags.DEFINE_bool("flags", False, "list what is doubtful as well as what fails", flag_values=FLAGS)
flags.DEFINE_integer("count", 1000, "questions to draw of a tiny task", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "of the questions that are drawn", flag_values=FLAGS)
USAGE = "r1jax lint-data FILE.jsonl|TASK [--route=TASK=VERIFIER ...] [--json] [--flags]"

_CHUNK = 256
_TIMEOUT_S = 20.0  # of one record; a lint compares a reference with itself, in milliseconds
_SHOWN = 50
_EVERY_S = 5.0

Line = tuple[int, Item | None, str]  # number, record, or what is wrong with the line


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1 or overrides:
        raise UserError(f"give one file or task: {USAGE}")
    if FLAGS.count < 1:
        raise UserError("--count must be 1 or more")
    source = positional[0]
    found = list(_with_progress(_findings(_lines(source), _routes(FLAGS.route))))
    if not found:
        raise UserError(f"{source}: holds no records")
    report = make_report(source, found)
    print(json.dumps(report, ensure_ascii=False) if FLAGS.json else "\n".join(_as_text(report)))
    return 1 if report["failed"] else 0


def _routes(texts: Sequence[str]) -> dict[str, str]:
    routes = {}
    for text in texts:
        task, equals, name = text.partition("=")
        if not equals or name not in verifiers.KNOWN:
            known = ", ".join(verifiers.KNOWN)
            raise UserError(f"--route={text}: must be TASK=VERIFIER, with one of {known}")
        routes[task] = name
    return routes


def _lines(source: str) -> Iterator[Line]:
    path = pathlib.Path(source).expanduser()
    if source in TASKS and not path.exists():
        records = lint.drawn(source, FLAGS.count, FLAGS.seed)
        return ((number, record, "") for number, record in enumerate(records, 1))
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{source}: {what}; give a JSONL file, or one of {', '.join(TASKS)}")
    return _read(path)


def _read(path: pathlib.Path) -> Iterator[Line]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, *lint.parse_line(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


Found = tuple[int, Item | None, Finding]


def _findings(lines: Iterator[Line], routes: Mapping[str, str]) -> Iterator[Found]:
    """In order. References are checked in worker processes, programs by threads that wait."""
    workers = max(1, (os.cpu_count() or 2) - 1)
    with (
        Pool("r1jax.rewards.lint:lint_item", workers=workers) as pool,
        ThreadPoolExecutor(max(2, workers)) as threads,
    ):
        while chunk := list(itertools.islice(lines, _CHUNK)):
            known: dict[int, Finding] = {}
            elsewhere = []
            for number, record, problem in chunk:
                if record is None:
                    known[number] = Finding("", problem)
                elif "tests" in record:
                    elsewhere.append((number, threads.submit(lint.lint, record, routes)))
            rest = [line for line in chunk if line[1] is not None and "tests" not in line[1]]
            items = [{"record": record, "routes": routes} for _, record, _ in rest]
            for line, outcome in zip(rest, pool.map(items, timeout_s=_TIMEOUT_S), strict=True):
                known[line[0]] = _read_outcome(outcome)
            known |= {number: future.result() for number, future in elsewhere}
            for number, record, _ in chunk:
                yield number, record, known[number]


def _read_outcome(outcome: Outcome) -> Finding:
    if outcome.status != "ok":
        return Finding("", f"checking it ended in: {outcome.status} {outcome.detail}".strip())
    return Finding(**{**outcome.value, "flags": tuple(outcome.value["flags"])})


def _with_progress(found: Iterator[Found]) -> Iterator[Found]:
    """A line on stderr now and then: stdout is for the report."""
    said = start = time.monotonic()
    failed = 0
    for count, entry in enumerate(found, 1):
        failed += bool(entry[2].failed)
        yield entry
        now = time.monotonic()
        if now - said >= _EVERY_S:
            said = now
            print(
                f"{count} records, {failed} fail, {count / (now - start):.0f} a second",
                file=sys.stderr,
                flush=True,
            )


def make_report(source: str, found: Sequence[Found]) -> dict[str, Any]:
    """Counts, and every record that fails or is doubtful."""
    first: dict[str, tuple[int, str]] = {}
    entries: dict[str, list[dict[str, Any]]] = {"failed": [], "flagged": []}
    for number, record, finding in found:
        record = record or {}
        finding = _with_duplicates(number, record, finding, first)
        entry = {
            "line": number,
            "id": record.get("id"),
            "task": finding.task,
            "answer": str(record.get("answer", ""))[:200],
        }
        if finding.failed:
            entries["failed"].append({**entry, "reason": finding.failed})
        elif finding.flags:
            entries["flagged"].append({**entry, "flags": list(finding.flags)})
    tasks = collections.Counter(finding.task or "?" for _, _, finding in found)
    return {
        "source": source,
        "records": len(found),
        "ok": len(found) - len(entries["failed"]),
        "tasks": dict(tasks),
        **entries,
    }


def _with_duplicates(
    number: int, record: Item, finding: Finding, first: dict[str, tuple[int, str]]
) -> Finding:
    """The finding, and whether an earlier line asks the same."""
    question, answer = record.get("question"), str(record.get("answer", ""))
    if finding.failed or not isinstance(question, str):
        return finding
    line, other = first.setdefault(question, (number, answer))
    if line == number:
        return finding
    flag = f"same as line {line}" if other == answer else f"other answer in line {line}: {other}"
    return dataclasses.replace(finding, flags=(*finding.flags, flag))


def _as_text(report: Mapping[str, Any]) -> Iterator[str]:
    for entry in report["failed"][:_SHOWN]:
        yield f"line {entry['line']} ({entry['task'] or '?'}): {entry['reason']}{_told(entry)}"
    if FLAGS.flags:
        for entry in report["flagged"][:_SHOWN]:
            flags_ = ", ".join(entry["flags"])
            yield f"line {entry['line']} ({entry['task']}), doubtful: {flags_}{_told(entry)}"
    left = max(0, len(report["failed"]) - _SHOWN)
    if FLAGS.flags:
        left += max(0, len(report["flagged"]) - _SHOWN)
    if left:
        yield f"… and {left} more: --json lists all"
    counts = collections.Counter(flag for entry in report["flagged"] for flag in _kinds(entry))
    doubtful = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    yield (
        f"{report['source']}: {report['records']} records, {report['ok']} right by themselves, "
        f"{len(report['failed'])} fail" + (f"; doubtful: {doubtful}" if doubtful else "")
    )


def _told(entry: Mapping[str, Any]) -> str:
    name = "" if entry["id"] is None else f", id {entry['id']}"
    return f"; answer {entry['answer']!r}{name}" if entry["answer"] else name


def _kinds(entry: Mapping[str, Any]) -> Iterator[str]:
    return (flag.partition(" line")[0].partition(" in")[0] for flag in entry["flags"])
