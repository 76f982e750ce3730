"""A run that was killed, stopped or damaged ends as the one that nothing disturbed."""

import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence

import pytest
from runs import assert_same_run

TOTAL_RECORDS = 5 + 12 + 3 + 2  # pretrain (every 4 of 20), rl, evaluations in it and around it


def wait_for_records(process, workdir, count: int) -> None:
    """Until that many lines are logged, or the process has ended."""
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.002)


def kill_and_resume(runs, workdir, kills: list[int], seed: int, flags: Sequence[str] = ()) -> None:
    rng = random.Random(seed)
    for count in kills:
        process = runs.start(workdir, *flags)
        wait_for_records(process, workdir, count)
        time.sleep(rng.random() * 0.05)  # anywhere in a step, or in a save
        process.kill()
        process.communicate()
    done = runs.run(workdir, *flags)
    assert done.returncode == 0, done.stderr


def test_killed_and_run_again_is_the_same_run(runs, whole_run, tmp_path):
    kill_and_resume(runs, tmp_path / "killed", [9], seed=0)
    assert_same_run(tmp_path / "killed", whole_run)


def lives_for(process, lines: int) -> bool:
    """Whether the process has said so many lines, and not ended before."""
    return all(process.stdout.readline() for _ in range(lines))


@pytest.mark.slow
def test_killed_many_times(runs, whole_run, tmp_path):
    """As often as R1JAX_KILLS says, while it starts and while it works; run after run."""
    rng, left = random.Random(1), int(os.environ.get("R1JAX_KILLS", "6"))
    for workdir in (tmp_path / str(number) for number in itertools.count()):
        while left:
            process = runs.start(workdir)
            if not lives_for(process, rng.randrange(7)):
                process.communicate()
                break
            time.sleep(rng.random() * 0.05)  # anywhere in a step, or in a save
            process.kill()
            process.communicate()
            left -= 1
        done = runs.run(workdir)
        assert done.returncode == 0, done.stderr
        assert_same_run(workdir, whole_run)
        if not left:
            break


@pytest.mark.slow
@pytest.mark.long
def test_killed_one_step_off(runs, tmp_path):
    """With samples waiting for their verdicts, and groups carried besides."""
    flags = ["asynchronous=true", "dynamic.mode=refill", "dynamic.carry=true"]
    flags = [f"--config.rl.{flag}" for flag in flags]
    # Three bits' parity is guessed often enough for groups of mixed answers.
    flags += ["--config.data.task=parity", "--config.pretrain.steps=60", "--config.seed=1"]
    flags += ["--config.objective.correction=tis", "--config.objective.correction_high=2.0"]
    done = runs.run(tmp_path / "whole", *flags)
    assert done.returncode == 0, done.stderr
    rng = random.Random(2)
    kills = sorted(rng.sample(range(16, TOTAL_RECORDS + 10), 3))
    kill_and_resume(runs, tmp_path / "killed", kills, seed=2, flags=flags)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("records", "signum", "exit_code"),
    [
        pytest.param(2, signal.SIGTERM, 0, id="in pretraining-sigterm", marks=pytest.mark.slow),
        pytest.param(9, signal.SIGINT, 130, id="in rl-ctrl-c"),
        pytest.param(2, signal.SIGINT, 130, id="in pretraining-ctrl-c", marks=pytest.mark.slow),
        pytest.param(9, signal.SIGTERM, 0, id="in rl-sigterm", marks=pytest.mark.slow),
    ],
)
def test_stopped_politely_saves_and_goes_on(runs, whole_run, tmp_path, signum, exit_code, records):
    workdir = tmp_path / "stopped"
    process = runs.start(workdir)
    wait_for_records(process, workdir, records)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert process.returncode == exit_code, err
    assert "the same command goes on from there" in out
    assert "Traceback" not in err
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in logged if line["phase"] != "evaluate"]
    phase, last = steps[-1]["phase"], steps[-1]["step"]
    assert (workdir / "checkpoints" / phase / str(last + 1)).is_dir()
    assert runs.run(workdir).returncode == 0
    if phase == "rl":  # a stop in pre-training logs one line more, at the step it came
        assert_same_run(workdir, whole_run)


def test_a_damaged_checkpoint_is_passed_over(runs, whole_run, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(whole_run, workdir)
    state = workdir / "checkpoints/rl/12/state"
    largest = max(state.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(largest.read_bytes())
    # A stretch, not a bit: which array a single place belongs to depends on the order of writing.
    middle = slice(len(data) // 4, len(data) // 2)
    data[middle] = bytes(byte ^ 0xFF for byte in data[middle])
    largest.write_bytes(bytes(data))
    done = runs.run(workdir)
    assert done.returncode == 0, done.stderr
    assert "checkpoint 12 is damaged" in done.stdout
    assert "goes on at step 8" in done.stdout
    assert "Traceback" not in done.stderr
    assert (workdir / "checkpoints/damaged/rl-12").is_dir()
    assert_same_run(workdir, whole_run)


def test_a_finished_run_is_not_run_again(runs, whole_run):
    before = (whole_run / "metrics.jsonl").read_text()
    done = runs.run(whole_run)
    assert done.returncode == 0
    assert "accuracy, greedy" in done.stdout
    assert (whole_run / "metrics.jsonl").read_text() == before
