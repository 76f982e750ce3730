"""`run_tests`: one program against its tests. `run_batch`: many, several at a time."""

import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from r1jax.rewards.code import levels
from r1jax.rewards.code.sandbox import (
    Case,
    Limits,
    Outcome,
    Sandbox,
    SandboxError,
    SandboxKilled,
)
from r1jax.rewards.code.suite import BadTests, Check, Judgement, judge_checker, make_checks
from r1jax.rewards.code.verdict import CodeVerdict, Status

# So that a time-out means the program and not the host, one core is left to the trainer; of two
# cores both are used, because this process only waits while the sandbox works.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
SLOTS = max(2, _CORES - 1)
_slots = threading.BoundedSemaphore(SLOTS)

# Of the caller's `env` only these reach a program: the rest is where tokens and keys are kept.
_HARMLESS = frozenset({"TZ", "LC_ALL", "LC_NUMERIC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"})

_CASES_EACH = 3  # of one program, before a second sandbox is worth its start
_COMPILER = ("-O2", "-std=c++17", "-o", "main", "main.cpp")
_COMPILE_LIMITS = Limits(time_s=30.0, memory_mb=2048, fsize_mb=64)
_BUSY = 1.5  # runnable processes per core from which a time-out may be the host's fault
_STARVED = (0.02, 0.7)  # … if the program got between these shares of its time as CPU


@runtime_checkable
class Backend(Protocol):
    """Where cases run: a local sandbox, or a remote service."""

    def run(self, case: Case, limits: Limits) -> Outcome: ...


@dataclasses.dataclass(frozen=True)
class Job:
    """One program of a batch."""

    program: str
    tests: dict[str, Any]
    language: str = "python"


def run_tests(
    program: str,
    tests: dict[str, Any],
    *,
    time_s: float | int = 4.0,
    memory_mb: int = 512,
    output_kb: int = 1024,
    fsize_mb: int = 16,
    nproc: int = 64,
    env: Mapping[str, str] | None = None,
    language: str = "python",
    stop_early: bool = True,
    level: int | None = None,
    allow_unsafe: bool = False,
    backend: Backend | None = None,
) -> CodeVerdict:
    """Run `program` (language "python" or "cpp") on `tests` and judge it.

    `tests` is one of
      {"type": "stdin", "cases": [{"input", "output"}]}, perhaps with a "checker": a Python program
        that reads {"input", "output", "expected"} as JSON and exits with 0 (right) or 1 (wrong);
      {"type": "function", "fn_name", "cases": [{"args", "expected"}]};
      {"type": "assert", "code"};
    the first two with an optional "float_tol". How outputs are compared: `compare.py`.

    Every case runs in a fresh process. The first that fails decides the status, and with
    `stop_early` ends the run. `time_s` is wall clock for each case, except what the program waited
    for a processor. Cases run side by side while slots are free. Of `env` only time zone, locale
    and thread counts reach the program. `level` asks for one sandbox level instead of the best; a
    `backend` replaces the local sandbox. Safe to call from threads.
    """
    started = time.monotonic()
    limits = Limits(float(time_s), memory_mb, output_kb, fsize_mb, nproc)
    environ = {k: v for k, v in (env or {}).items() if k in _HARMLESS}
    try:
        checks = make_checks(program, tests, language=language, environ=environ)
        with contextlib.ExitStack() as stack:
            backends = (
                [backend] if backend else _open(stack, len(checks), level, allow_unsafe, limits)
            )
            if language == "cpp":
                backends = _compiling(backends)
            judgements = _run_checks(backends, checks, limits, stop_early)
    except (BadTests, SandboxError) as error:
        return CodeVerdict("infra", 0, 0, str(error), time.monotonic() - started)
    return _sum_up(judgements, checks, time.monotonic() - started)


def run_batch(
    jobs: Iterable[Job],
    *,
    workers: int = SLOTS,
    level: int | None = None,
    allow_unsafe: bool = False,
    fsize_mb: int = 16,
    **options: Any,
) -> list[CodeVerdict]:
    """`run_tests` for many programs, a result for each, in order; `options` as there.

    Each worker keeps its sandbox from one program to the next: most of the time of small runs.
    """
    try:
        info = levels.sandbox_info(level, allow_unsafe=allow_unsafe)
    except SandboxError as error:
        return [CodeVerdict("infra", 0, 0, str(error), 0.0) for _ in jobs]
    idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()

    def run_one(job: Job) -> CodeVerdict:
        sandbox = idle.get()
        try:
            return run_tests(
                job.program,
                job.tests,
                language=job.language,
                backend=sandbox,
                fsize_mb=fsize_mb,
                **options,
            )
        finally:
            idle.put(sandbox)

    with contextlib.ExitStack() as stack:
        for _ in range(workers):
            idle.put(stack.enter_context(Sandbox(info.level, fsize_mb=fsize_mb)))
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return list(pool.map(run_one, jobs))


def run_inputs(
    program: str,
    inputs: Sequence[str],
    *,
    limits: Limits | None = None,
    language: str = "python",
    level: int | None = None,
    allow_unsafe: bool = False,
) -> list[Outcome]:
    """What a program does on each input, without a judgement. SandboxError if the machine fails."""
    limits = limits or Limits()
    info = levels.sandbox_info(level, allow_unsafe=allow_unsafe)
    kind = "script" if language == "python" else language
    outcomes = []
    with _slots, Sandbox(info.level, fsize_mb=limits.fsize_mb) as sandbox:
        (backend,) = _compiling([sandbox]) if language == "cpp" else [sandbox]
        for text in inputs:
            case = Case(kind, program=program.encode(), stdin=text.encode())
            try:
                outcomes.append(backend.run(case, limits))
            except SandboxKilled:
                outcomes.append(Outcome("exit", -signal.SIGKILL, b"", b"", b"", 0.0, 0.0, 0.0))
    return outcomes


def _open(
    stack: contextlib.ExitStack, checks: int, level: int | None, allow_unsafe: bool, limits: Limits
) -> list[Backend]:
    """A sandbox, and more of them where there are many cases and slots that nobody uses."""
    info = levels.sandbox_info(level, allow_unsafe=allow_unsafe)
    backends: list[Backend] = []
    for number in range(max(1, min(SLOTS, -(-checks // _CASES_EACH)))):
        if not _slots.acquire(blocking=number == 0):
            break
        stack.callback(_slots.release)
        backends.append(stack.enter_context(Sandbox(info.level, fsize_mb=limits.fsize_mb)))
    return backends


def _run_checks(
    backends: Sequence[Backend], checks: list[Check], limits: Limits, stop_early: bool
) -> list[Judgement]:
    """In order; with `stop_early` up to the first that fails, however many ran side by side."""
    judgements: dict[int, Judgement] = {}
    places = iter(range(len(checks)))
    lock = threading.Lock()
    failed = threading.Event()

    def work(backend: Backend) -> None:
        while True:
            with lock:
                place = None if failed.is_set() and stop_early else next(places, None)
            if place is None:
                return
            judgement = judgements[place] = _run_check(backend, checks[place], limits)
            if judgement.status != "pass":
                failed.set()

    if len(backends) == 1:
        work(backends[0])
    else:
        with concurrent.futures.ThreadPoolExecutor(len(backends)) as pool:
            for future in [pool.submit(work, backend) for backend in backends]:
                future.result()
    ordered = [judgements[place] for place in sorted(judgements)]
    failures = (place for place, judgement in enumerate(ordered) if judgement.status != "pass")
    return ordered[: next(failures, len(ordered)) + 1] if stop_early else ordered


def _run_check(backend: Backend, check: Check, limits: Limits) -> Judgement:
    try:
        outcome = backend.run(check.case, limits)
        if outcome.end == "timeout" and _host_was_busy(outcome, limits):
            outcome = backend.run(check.case, limits)
    except SandboxKilled as error:
        return Judgement("error", (False,) * check.size, str(error))
    judgement = check.judge(outcome)
    if judgement.status == "pass" and check.follow_up is not None:
        return judge_checker(backend.run(check.follow_up(outcome), limits))
    return judgement


def _host_was_busy(outcome: Outcome, limits: Limits) -> bool:
    least, most = (share * limits.time_s for share in _STARVED)
    return os.getloadavg()[0] > _BUSY * _CORES and least < outcome.cpu_s < most


def _compiling(backends: Sequence[Backend]) -> list[Backend]:
    """Sandboxes that compile a C++ program once for all; a remote service compiles itself."""
    program = _Program()
    return [_Compiled(b, program) if isinstance(b, Sandbox) else b for b in backends]


class _Program:
    """What became of compiling it, for the threads that need it."""

    def __init__(self) -> None:
        self.compiled: Outcome | None = None
        self.lock = threading.Lock()


class _Compiled:
    """Compiles a C++ program at its first case, in the sandbox, and runs the binary each time."""

    def __init__(self, sandbox: Sandbox, program: _Program):
        self._sandbox, self._program = sandbox, program

    def run(self, case: Case, limits: Limits) -> Outcome:
        with self._program.lock:
            if self._program.compiled is None:
                self._program.compiled = self._compile(case.program)
        compiled = self._program.compiled
        if compiled.end != "exit":
            return compiled
        files = {"main": compiled.fetched}
        run = Case("exec", stdin=case.stdin, argv=("./main",), files=files, environ=case.environ)
        return self._sandbox.run(run, limits)

    def _compile(self, source: bytes) -> Outcome:
        compiler = shutil.which("g++", path="/usr/local/bin:/usr/bin:/bin")
        if compiler is None:
            raise SandboxError("g++ is not installed")
        case = Case(
            "exec",
            argv=(compiler, *_COMPILER),
            files={"main.cpp": source},
            fetch="main",
        )
        outcome = self._sandbox.run(case, _COMPILE_LIMITS)
        done = outcome.end == "exit" and outcome.code == 0 and outcome.fetched
        return outcome if done else dataclasses.replace(outcome, end="compile")


def _sum_up(judgements: list[Judgement], checks: list[Check], seconds: float) -> CodeVerdict:
    cases = tuple(passed for judgement in judgements for passed in judgement.passed)
    status: Status = "pass"
    reason = ""
    for number, judgement in enumerate(judgements, 1):
        if judgement.status != "pass":
            status, reason = judgement.status, f"case {number}: {judgement.reason}"
            break
    total = sum(check.size for check in checks)
    if total == 0:
        return CodeVerdict("infra", 0, 0, "there are no tests", seconds)
    return CodeVerdict(status, sum(cases), total, reason, seconds, cases)
