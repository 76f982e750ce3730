"""R1-Zero: a base model, reinforcement learning with rule rewards, and the evidence.

    pretrain or load ──▶ evaluate ──▶ rl ──▶ evaluate ──▶ summary.json, report.html

Every phase picks up where an earlier run of the same workdir left it.
"""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from r1jax import cluster
from r1jax import config as config_lib
from r1jax import mesh as mesh_lib
from r1jax.config import Config
from r1jax.evaluation.evaluate import evaluate, evaluate_ready
from r1jax.monitor import completions
from r1jax.monitor.clock import CompileCounter
from r1jax.monitor.memory import process_peak_bytes
from r1jax.monitor.metrics import finite_or_none
from r1jax.monitor.report import write_report
from r1jax.monitor.sinks import Sinks
from r1jax.training import workdir as workdir_lib
from r1jax.training.batches import rl_batch_shape
from r1jax.training.interrupts import Interrupts
from r1jax.training.load import initial_params
from r1jax.training.rl import PHASE, train_rl
from r1jax.training.session import Session
from r1jax.training.setup import make_setup
from r1jax.training.sft import pretrain
from r1jax.training.start import contents, keep_start
from r1jax.types import Params

T = TypeVar("T")


def run(
    config: Config,
    workdir: pathlib.Path,
    *,
    overwrite: bool = False,
    resume: int | None = None,
) -> dict[str, Any]:
    """Train, evaluate, and write the summary; returns it. `resume`: from an earlier checkpoint."""
    completions.require_format(config.logging.completions_format)
    cluster.require_alike(config_lib.flatten(config_lib.to_dict(config)), "config")
    with contextlib.ExitStack() as held:

        def open_workdir() -> None:
            if resume is not None:
                workdir_lib.require_run(workdir)
            held.enter_context(workdir_lib.hold(workdir))
            workdir_lib.open_workdir(workdir, config, overwrite=overwrite)
            if resume is not None:
                workdir_lib.go_back(workdir, PHASE, resume)
            keep_start(config, workdir)

        cluster.first_only(open_workdir, "workdir")
        cluster.require_none(not_seen(workdir), "one file system")
        return run_in(workdir, config)


def run_in(workdir: pathlib.Path, config: Config) -> dict[str, Any]:
    """`run`, in a workdir that is open."""
    setup = make_setup(config, workdir)
    if setup.files is not None:
        names = [*(config.data.mix or [config.data.train]), "those held out"]
        found = dict(zip(names, setup.files.fingerprint, strict=True))
        cluster.require_alike(found, "questions")
        if cluster.is_first():
            print(setup.files.describe(), flush=True)
    sinks = Sinks(
        workdir,
        tensorboard=config.logging.tensorboard,
        wandb_project=config.logging.wandb_project,
        silent=not cluster.is_first(),
    )
    compiles = CompileCounter()
    try:
        rl_batch_shape(config, setup.mesh, setup.start.model.attention)  # refuses before any work
        with Interrupts() as interrupts, mesh_lib.use(setup.mesh):
            session = Session(setup, workdir, sinks, interrupts, compiles)
            with session.watchdog():
                return _run(session)
    finally:
        setup.grader.close()
        compiles.close()
        sinks.close()


def not_seen(workdir: pathlib.Path) -> str | None:
    """What is wrong where the first process has opened a workdir and this one does not see it."""
    if (workdir / "config.json").is_file():
        return None
    return f"--workdir={workdir}: is not that of process 0; name a folder that all of them see"


def _run(session: Session) -> dict[str, Any]:
    summary = Summary(session)
    phase = "load" if session.setup.config.init_from else "pretrain"
    base = summary.time(phase, lambda: load_start(session))
    summary.evaluate("before", base, 0)
    measure = functools.partial(evaluate_ready, session.setup)
    state = summary.time("rl", lambda: train_rl(session, base, measure))
    policy = session.setup.policy(base, state.params)
    summary.evaluate("after", policy, session.setup.config.rl.steps)
    report = functools.partial(write_report, session.workdir)
    with session.clock.watch("report"):
        summary.time("report", lambda: cluster.first_only(report, "report"))
    session.say(summary.table())
    session.say(f"report: {session.workdir / 'report.html'}")
    return summary.value


def load_start(session: Session) -> Params:
    """What reinforcement learning starts from: a checkpoint, or a base of the run's own."""
    source = session.setup.config.init_from
    if not source:
        return pretrain(session)
    if cluster.count() > 1:
        cluster.require_alike(contents(source), "checkpoint to start from")
    return initial_params(session.setup)


class Summary:
    """`summary.json`: what the policy could do before and after, and the seconds of each phase.

    Saved after every phase; seconds add up over the processes that a workdir took.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._path = session.workdir / "summary.json"
        self._compiled = 0.0
        self.value: dict[str, Any] = {"before": None, "after": None, "seconds": {}}
        self.value |= cluster.from_first(self._read, "summary")
        self.value["seed"] = session.setup.config.seed

    def time(self, phase: str, work: Callable[[], T]) -> T:
        """Run one phase; its seconds and those spent compiling in it are kept even if it fails."""
        start = time.perf_counter()
        try:
            result = work()
        finally:
            self._add(phase, time.perf_counter() - start)
            compiled = self._session.compiles.seconds
            self._add("compile", compiled - self._compiled)
            self._compiled = compiled
            self._save()
        if self._session.stopping():
            self._session.interrupts.raise_if_received()
        return result

    def evaluate(self, when: str, params: Params, step: int) -> None:
        """Measure the policy of a step, unless an earlier process of this workdir has."""
        known = self.value[when]
        if known is not None and known["step"] == step:
            return
        with self._session.clock.watch("evaluate"):
            numbers = self.time("evaluate", lambda: evaluate(self._session.setup, params))
        self.value[when] = {**finite_or_none(numbers), "step": step}
        self._session.forget_after(f"evaluate_{when}", 0)
        self._session.sinks.write(f"evaluate_{when}", step, numbers)
        self._save()

    def table(self) -> str:
        """Before and after side by side, and where the time went."""
        before, after = self.value["before"], self.value["after"]
        lines = [f"{'':<28}{'before':>9}{'after':>9}"]
        for key, label in ROWS.items():
            cells = (_cell(row[key]) for row in (before, after))
            lines.append(f"{label.format(k=after['k']):<28}" + "".join(cells))
        seconds = self.value["seconds"]
        spent = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        total = sum(value for name, value in seconds.items() if name != "compile")
        lines.append(f"seconds: {total:.0f} in all ({spent}; compile is part of all)")
        lines.append(f"peak memory: {self.value['peak_memory_mb']} MB")
        return "\n".join(lines)

    def _add(self, phase: str, seconds: float) -> None:
        known = self.value["seconds"]
        known[phase] = round(known.get(phase, 0.0) + seconds, 2)

    def _read(self) -> dict[str, Any]:
        return workdir_lib.read_json(self._path) if self._path.exists() else {}

    def _save(self) -> None:
        self.value["peak_memory_mb"] = max(
            self.value.get("peak_memory_mb", 0), process_peak_bytes() // 2**20
        )
        if cluster.is_first():
            workdir_lib.write_json(self._path, self.value)


ROWS = {
    "greedy_accuracy": "accuracy, greedy",
    "accuracy": "accuracy, sampled (pass@1)",
    "pass_at_k": "pass@{k}",
    "maj_at_k": "maj@{k}",
    "mean_length": "mean length, tokens",
    "reasoning_share": "share that reasons",
    "accuracy_with_reasoning": "accuracy with reasoning",
    "accuracy_without_reasoning": "accuracy without",
}


def _cell(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:>9.3f}"
