"""Two processes over the loopback are the run of one, and one of them may be killed."""

import json
import pathlib
import shutil
import signal
import time

import pytest
from cluster_runs import HEARTBEAT_S, finish, start_cluster
from runs import records

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
TENSOR = ["--config.mesh.data=1", "--config.mesh.tensor=2", "--config.model.kv_heads=2"]
# What else a run can be, besides.
KINDS = {
    "fsdp": FSDP,
    "tensor": TENSOR,
    "refill": [
        "--config.rl.dynamic.mode=refill",
        "--config.rl.dynamic.carry=true",
        "--config.rl.epochs=2",
        "--config.rl.reference_every=2",
    ],
    "adapters": ["--config.lora.rank=2", "--config.lora.alpha=2"],
    "speculative": ["--config.rollout.speculate=ngram"],
}


@pytest.fixture(scope="module")
def two_devices(runs):
    """Processes with one CPU device; `alone` gives a run both."""
    before = runs.env.get("JAX_NUM_CPU_DEVICES")
    runs.env["JAX_NUM_CPU_DEVICES"] = "1"
    yield runs
    runs.env.pop("JAX_NUM_CPU_DEVICES")
    if before is not None:
        runs.env["JAX_NUM_CPU_DEVICES"] = before


def run_pair(runs, workdir: pathlib.Path, *flags: str) -> list[tuple[str, str]]:
    processes = start_cluster(runs, workdir, *FLAGS, *flags)
    said = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    return said


def run_alone(runs, workdir: pathlib.Path, *flags: str) -> None:
    runs.env["JAX_NUM_CPU_DEVICES"] = "2"
    try:
        done = runs.run(workdir, *FLAGS, *flags)
    finally:
        runs.env["JAX_NUM_CPU_DEVICES"] = "1"
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def pair(two_devices):
    """The workdir of two processes that nothing disturbed."""
    workdir = two_devices.folder / "pair"
    said = run_pair(two_devices, workdir)
    assert "rl 6/6" in said[0][0]
    assert [err for _, err in said] == ["", ""]
    # The second says nothing but what the library of its collectives does.
    assert all("Gloo" in line for line in said[1][0].splitlines())
    return workdir


def assert_same(left: pathlib.Path, right: pathlib.Path) -> None:
    """Bit for bit. What is the same: each device does what it does in one process, and the sum of
    two numbers has one order only."""
    assert records(left) == records(right)
    samples = [sorted((w / "completions.jsonl").read_text().splitlines()) for w in (left, right)]
    assert samples[0] == samples[1]
    assert seal(left) == seal(right)  # of every array, and of the books
    ends = [json.loads((w / "summary.json").read_text())["after"] for w in (left, right)]
    assert ends[0] == ends[1]


def seal(workdir: pathlib.Path) -> list[int]:
    return json.loads((workdir / "checkpoints/rl/6/run/metadata").read_text())["seal"]


@pytest.mark.slow
def test_two_processes_are_one(two_devices, pair, tmp_path):
    run_alone(two_devices, tmp_path / "one")
    learned = [line["grad_norm"] for line in records(pair) if line["phase"] == "rl"]
    assert max(learned) > 0.01
    assert_same(tmp_path / "one", pair)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "refill" else pytest.mark.long) for k in KINDS]
)
def test_two_processes_are_one_of_every_kind(two_devices, tmp_path, kind):
    run_pair(two_devices, tmp_path / "two", *KINDS[kind])
    run_alone(two_devices, tmp_path / "one", *KINDS[kind])
    assert_same(tmp_path / "one", tmp_path / "two")


def wait_for_rl(processes, workdir: pathlib.Path, step: int) -> None:
    path, deadline = workdir / "metrics.jsonl", time.monotonic() + 240
    while all(process.poll() is None for process in processes) and time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if sum('"phase": "rl"' in line for line in lines) > step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no rl step {step}: {finish(processes, 1)}")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.long)])
def test_one_killed_ends_the_other_and_the_pair_goes_on(two_devices, pair, tmp_path, killed):
    workdir = tmp_path / "killed"
    processes = start_cluster(two_devices, workdir, *FLAGS)
    wait_for_rl(processes, workdir, 3)
    processes[killed].kill()
    start = time.monotonic()
    said = finish(processes, 60)
    assert time.monotonic() - start < HEARTBEAT_S + 30
    assert processes[1 - killed].returncode not in (0, None)
    lines = said[1 - killed][1].splitlines()
    assert [line[:24] for line in lines] == [f"r1jax: process {killed} is gone"], lines
    run_pair(two_devices, workdir)
    assert_same(workdir, pair)


@pytest.mark.slow
@pytest.mark.parametrize("told", [1, pytest.param(0, marks=pytest.mark.long)])
def test_a_signal_to_one_stops_both_and_they_go_on(two_devices, pair, tmp_path, told):
    workdir = tmp_path / "stopped"
    processes = start_cluster(two_devices, workdir, *FLAGS)
    wait_for_rl(processes, workdir, 2)
    processes[told].send_signal(signal.SIGTERM)
    said = finish(processes, 120)
    assert [process.returncode for process in processes] == [0, 0], said
    assert "the same command goes on from there" in said[0][0]
    last = [line["step"] for line in records(workdir) if line["phase"] == "rl"][-1]
    assert last < 5
    assert (workdir / f"checkpoints/rl/{last + 1}").is_dir()
    run_pair(two_devices, workdir)
    assert_same(workdir, pair)


@pytest.mark.slow
def test_what_is_wrong_for_one_ends_all_in_one_line(two_devices, pair, tmp_path):
    workdir = tmp_path / "other"
    shutil.copytree(pair, workdir)
    processes = start_cluster(two_devices, workdir, *FLAGS, "--config.optim.lr=0.5")
    said = finish(processes, 120)
    assert [process.returncode for process in processes] == [2, 2], said
    for number, (_, err) in enumerate(said):
        assert len(err.splitlines()) == 1, err
        assert "holds a run of another config" in err
        assert ("process 0 stopped" in err) == (number == 1)


@pytest.mark.slow
def test_devices_that_are_left_out_are_refused(two_devices, tmp_path):
    processes = start_cluster(two_devices, tmp_path / "w", "--config.mesh.data=1")
    said = finish(processes, 120)
    assert [process.returncode for process in processes] == [2, 2], said
    assert all("some of the 2 processes would have none" in err for _, err in said)
