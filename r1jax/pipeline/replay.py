"""`r1jax train --replay=STEP`: one step of a run done again, and compared with what was logged.

The newest checkpoint before the step is gone on from, in a folder of its own inside the workdir,
whose run stays as it is. On the same platform, with the same devices, every number is the same, bit
for bit; what a clock or a cache says is not compared.
"""

import contextlib
import functools
import os
import pathlib
import shutil
from typing import Any

from r1jax import cluster
from r1jax import mesh as mesh_lib
from r1jax.config import Config
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import evaluate_ready
from r1jax.monitor.clock import CompileCounter
from r1jax.monitor.records import json_lines
from r1jax.monitor.sinks import Sinks
from r1jax.pipeline.r1_zero import load_start
from r1jax.training import sft
from r1jax.training import workdir as workdir_lib
from r1jax.training.interrupts import Interrupts
from r1jax.training.load import BASE, load_config
from r1jax.training.rl import train_rl
from r1jax.training.session import Session
from r1jax.training.setup import make_setup
from r1jax.training.step_log import PHASE

FOLDER = "replay"
# What a clock, a compiler, a tracker or a cache says, which starts empty in a process that goes on.
VOLATILE = (
    "time/",
    "perf/",
    "memory/",
    "sinks/",
    "step_time",
    "tokens_per_second",
    "compiles",
    "grading/queue_s",
    "grading/cache_hits",
)

Difference = tuple[str, Any, Any]  # (metric, as logged, now)


def replay(workdir: pathlib.Path, step: int) -> list[Difference]:
    """Do an RL step again; what came out otherwise."""
    config = load_config(workdir, {})
    logged = cluster.from_first(lambda: read_step(workdir, step), "logged")
    if logged is None:
        raise UserError(f"--replay={step}: {workdir} has not logged this step")
    copy = workdir / FOLDER
    with contextlib.ExitStack() as held:

        def open_copy() -> None:
            held.enter_context(workdir_lib.hold(workdir))
            held.callback(shutil.rmtree, copy, ignore_errors=True)
            make_copy(workdir, copy, step)

        cluster.first_only(open_copy, "copy")
        train_copy(config, copy, step + 1)
        found = cluster.from_first(lambda: read_step(copy, step), "replayed")
    assert found is not None  # train_rl logs every step
    return compare(logged, found)


def make_copy(workdir: pathlib.Path, copy: pathlib.Path, step: int) -> None:
    """The run as it was before the step. Files are linked, not copied: checkpoints are large."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("config.json", "start"):
        if (workdir / name).exists():
            _link(workdir / name, copy / name)
    checkpoints = workdir / "checkpoints"
    for phase in checkpoints.iterdir() if checkpoints.is_dir() else ():
        for saved in phase.iterdir():
            is_later = phase.name == PHASE and saved.name.isdecimal() and int(saved.name) > step
            if phase.name in (PHASE, sft.PHASE, BASE) and not is_later:
                _link(saved, copy / "checkpoints" / phase.name / saved.name)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_or_copy)
    else:
        _link_or_copy(str(source), str(target))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def train_copy(config: Config, copy: pathlib.Path, until: int) -> None:
    setup = make_setup(config, copy)
    sinks, compiles = Sinks(copy, silent=not cluster.is_first()), CompileCounter()
    try:
        with Interrupts() as interrupts, mesh_lib.use(setup.mesh):
            session = Session(setup, copy, sinks, interrupts, compiles)
            base = load_start(session)
            train_rl(session, base, functools.partial(evaluate_ready, setup), until=until)
    finally:
        setup.grader.close()
        compiles.close()
        sinks.close()


def read_step(workdir: pathlib.Path, step: int) -> dict[str, Any] | None:
    """The step's record, the last one written."""
    found = None
    path = workdir / "metrics.jsonl"
    for record in json_lines(path, []) if path.is_file() else ():
        if record.get("phase") == PHASE and record.get("step") == step:
            found = record
    return found


def compare(logged: dict[str, Any], found: dict[str, Any]) -> list[Difference]:
    names = sorted(name for name in logged.keys() | found.keys() if not name.startswith(VOLATILE))
    pairs = [(name, logged.get(name), found.get(name)) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]
