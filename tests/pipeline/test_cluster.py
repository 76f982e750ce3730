"""Two processes over the loopback are the run of one, and one of them may be killed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from cluster_runs import (
    FLAGS,
    HEARTBEAT_S,
    assert_same,
    finish,
    free_port,
    refused,
    run_alone,
    run_pair,
    start_cluster,
    wait_for_rl,
)
from runs import records

from r1jax import cluster
from r1jax.errors import UserError


@pytest.fixture(scope="module")
def pair(two_devices):
    """The workdir of two processes that nothing disturbed."""
    workdir = two_devices.folder / "pair"
    said = run_pair(two_devices, workdir, *FLAGS)
    assert "rl 6/6" in said[0][0]
    assert [err for _, err in said] == ["", ""]
    # The second says nothing but what the library of its collectives does.
    assert all("Gloo" in line for line in said[1][0].splitlines())
    return workdir


@pytest.mark.slow
def test_two_processes_are_one(two_devices, pair, tmp_path):
    run_alone(two_devices, tmp_path / "one", *FLAGS)
    learned = [line["grad_norm"] for line in records(pair) if line["phase"] == "rl"]
    assert max(learned) > 0.01
    assert_same(tmp_path / "one", pair)


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
    run_pair(two_devices, workdir, *FLAGS)
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
    run_pair(two_devices, workdir, *FLAGS)
    assert_same(workdir, pair)


PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from r1jax import cluster

@jax.jit
def program(counts, weights, x):
    # A loop that asks all processes each time, and sums that do not wait for it.
    counts = jax.lax.while_loop(lambda c: jnp.any(c > 0), lambda c: c - 1, counts)
    for weight in weights:
        weight = jax.lax.with_sharding_constraint(weight, whole)
        x = jnp.tanh(jnp.tanh(x @ weight) @ weight.T)
    return counts, x

port, number = sys.argv[1:]
with cluster.joined("127.0.0.1:" + port, 2, int(number), detect=False, heartbeat_s=60):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "d")
    rows, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("d", None))
    make = lambda shape: cluster.place(np.full(shape, 3, np.float32), rows)
    for _ in range(100):
        weights = [make((128, 512)) for _ in range(6)]
        jax.block_until_ready(program(make(8), weights, make((8, 128))))
"""


@pytest.mark.slow
def test_compiled_programs_of_a_cache_are_not_used_between_processes_of_a_cpu(tmp_path):
    """Their collectives would come in any order, and the second time nobody would end."""
    cache = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for _ in range(2):
        command = [sys.executable, "-c", PROGRAM, str(free_port())]
        pair = [
            subprocess.Popen([*command, str(number)], env=os.environ | cache) for number in range(2)
        ]
        try:
            assert [process.wait(60) for process in pair] == [0, 0]
        finally:
            for process in pair:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_what_is_wrong_for_one_ends_all_in_one_line(two_devices, pair, tmp_path):
    workdir = tmp_path / "other"
    shutil.copytree(pair, workdir)
    said = refused(start_cluster(two_devices, workdir, *FLAGS, "--config.optim.lr=0.5"))
    assert all("holds a run of another config" in line for line in said)
    assert ["process 0 stopped" in line for line in said] == [False, True]


@pytest.mark.slow
def test_devices_that_are_left_out_are_refused(two_devices, tmp_path):
    said = refused(start_cluster(two_devices, tmp_path / "w", "--config.mesh.data=1"))
    assert all("some of the 2 processes would have none" in line for line in said)


def test_what_processes_were_started_with_is_compared(monkeypatch):
    monkeypatch.setattr(cluster, "gather", lambda value, what: [{"a": 1, "b": 2}, value])
    cluster.require_alike({"b": 2, "a": 1}, "config")
    message = r"same config; they differ in b \(2 in process 0, 'unset' in process 1\)\. Start all"
    with pytest.raises(UserError, match=message):
        cluster.require_alike({"a": 1}, "config")


@pytest.mark.slow
def test_a_process_with_another_config_is_refused_before_anything_is_written(two_devices, tmp_path):
    workdir, own = tmp_path / "w", ([], ["--config.rl.steps=7"])
    said = refused(start_cluster(two_devices, workdir, *FLAGS, own=own))
    wanted = "have the same config; they differ in rl.steps (6 in process 0, 7 in process 1)"
    assert all(wanted in line for line in said)
    assert not workdir.exists()


@pytest.mark.slow
def test_a_process_that_does_not_see_the_workdir_is_refused(two_devices, tmp_path):
    own = ([f"--workdir={tmp_path / 'a'}"], [f"--workdir={tmp_path / 'b'}"])
    said = refused(start_cluster(two_devices, tmp_path / "w", *FLAGS, own=own))
    assert all("b: is not that of process 0; name a folder that all of them see" in s for s in said)
