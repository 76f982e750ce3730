"""Runs of several processes on this machine, which meet on a port of the loopback."""

import json
import pathlib
import socket
import subprocess
import time
from collections.abc import Sequence

from forks import Fork
from runs import Runs, records

from r1jax.monitor import completions

Process = Fork | subprocess.Popen[str]
HEARTBEAT_S = 10
# Groups of mixed answers, so that there is something to learn; two devices in all.
FLAGS = [
    "--config.seed=1",
    "--config.data.task=parity",
    "--config.pretrain.steps=40",
    "--config.rl.steps=6",
    "--config.eval.every=3",
    "--config.checkpoint.every=2",
    "--config.mesh.data=2",
]
FSDP = ["--config.mesh.data=1", "--config.mesh.fsdp=2"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_cluster(
    runs: Runs,
    workdir: pathlib.Path,
    *flags: str,
    processes: int = 2,
    own: Sequence[Sequence[str]] = (),
    folders: Sequence[pathlib.Path] = (),
) -> list[Process]:
    """`own`: flags of each process. `folders`: where each of them is started anew."""
    alike = (
        f"--coordinator_address=127.0.0.1:{free_port()}",
        f"--num_processes={processes}",
        f"--heartbeat_s={HEARTBEAT_S}",
        *flags,
    )
    started: list[Process] = []
    for number in range(processes):
        these = (*alike, f"--process_id={number}", *(own[number] if own else ()))
        if folders:
            started.append(runs.start_anew(folders[number], workdir, *these))
        else:
            started.append(runs.start(workdir, *these))
    return started


def finish(processes: list[Process], timeout: float = 300) -> list[tuple[str, str]]:
    """(stdout, stderr) of each, when all are over; none is left behind."""
    try:
        return [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def run_pair(
    runs: Runs, workdir: pathlib.Path, *flags: str, processes: int = 2
) -> list[tuple[str, str]]:
    started = start_cluster(runs, workdir, *flags, processes=processes)
    said = finish(started)
    assert [process.returncode for process in started] == [0] * processes, said
    return said


def run_alone(runs: Runs, workdir: pathlib.Path, *flags: str, devices: int = 2) -> None:
    """One process, with the devices of several."""
    runs.env["JAX_NUM_CPU_DEVICES"] = str(devices)
    try:
        done = runs.run(workdir, *flags)
    finally:
        runs.env["JAX_NUM_CPU_DEVICES"] = "1"
    assert done.returncode == 0, done.stderr


def refused(processes: list[Process]) -> list[str]:
    """What each said, in its one line."""
    said = finish(processes, 120)
    assert [process.returncode for process in processes] == [2] * len(processes), said
    assert [len(err.splitlines()) for _, err in said] == [1] * len(processes), said
    return [err for _, err in said]


def assert_same(left: pathlib.Path, right: pathlib.Path) -> None:
    """Bit for bit. What is the same: each device does what it does in one process, and the sum of
    two numbers has one order only."""
    assert records(left) == records(right)
    assert samples(left) == samples(right)
    there, here = seals(left), seals(right)  # of every array, and of the books
    shared = there.keys() & here.keys()  # a run that was stopped has saved at other steps too
    assert "rl/6" in shared
    assert {each: there[each] for each in shared} == {each: here[each] for each in shared}
    ends = [json.loads((w / "summary.json").read_text()) for w in (left, right)]
    for when in ("before", "after"):
        assert ends[0][when] == ends[1][when]


def samples(workdir: pathlib.Path) -> list[str]:
    problems: list[str] = []
    found = sorted(json.dumps(line, sort_keys=True) for line in completions.read(workdir, problems))
    assert found
    assert not problems
    return found


def seals(workdir: pathlib.Path) -> dict[str, list[int]]:
    """By phase and step, of the checkpoints that are there."""
    found = (workdir / "checkpoints").glob("*/*/run/metadata")
    kept = {path.parents[1]: path for path in found if path.parents[1].name.isdecimal()}
    return {
        f"{folder.parent.name}/{folder.name}": json.loads(path.read_text())["seal"]
        for folder, path in sorted(kept.items())
    }


def wait_for_rl(processes: list[Process], workdir: pathlib.Path, step: int) -> None:
    path, deadline = workdir / "metrics.jsonl", time.monotonic() + 240
    while all(process.poll() is None for process in processes) and time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if sum('"phase": "rl"' in line for line in lines) > step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no rl step {step}: {finish(processes, 1)}")
