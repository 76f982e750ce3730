"""A run that was killed, stopped or damaged ends as the one that nothing disturbed."""

import collections
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent import futures

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
    kill_and_resume(runs, tmp_path / "killed", [3, 9, 14], seed=0)
    assert_same_run(tmp_path / "killed", whole_run)


def unfinished_saves(workdir) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").glob("*/*tmp*")}


def kill_somewhere(runs, workdir, rng: random.Random) -> tuple[str, bool] | None:
    """What the process was at when it was killed, and whether in a save; None = it ended before."""
    left, lines, in_save = unfinished_saves(workdir), rng.randrange(7), rng.random() < 0.2
    process = runs.start(workdir)
    while process.poll() is None:
        if in_save and unfinished_saves(workdir) - left:
            break
        if not in_save and process.said().count("\n") >= lines:
            # Anywhere in a step, or in what is between steps and between phases.
            time.sleep(rng.random() * rng.choice([0.05, 0.5, 1.5]))
            break
        time.sleep(0.001)
    process.kill()
    said, err = process.communicate()
    if process.returncode != -signal.SIGKILL:
        assert process.returncode == 0, err
        return None
    last = (said.splitlines() or [""])[-1]
    if "goes on" in last or not last:
        phase = "start"
    elif last.startswith("pretrain"):
        phase = "before rl" if "took" in last else "pretrain"
    else:
        phase = "rl"
    return phase, bool(unfinished_saves(workdir) - left)


def kill_again_and_again(runs, whole_run, folder, kills: int) -> list[tuple[str, bool]]:
    """Run after run, each as that which nothing disturbed; where the kills came."""
    rng, places = random.Random(folder.name), []
    for workdir in (folder / str(number) for number in itertools.count()):
        # A new run now and then: else most kills would come late in one.
        for _ in range(min(rng.randrange(3, 8), kills - len(places))):
            place = kill_somewhere(runs, workdir, rng)
            if place is None:
                break
            places.append(place)
        done = runs.run(workdir)
        assert done.returncode == 0, done.stderr
        assert_same_run(workdir, whole_run)
        if len(places) == kills:
            return places


@pytest.mark.slow
def test_killed_many_times(runs, whole_run, tmp_path):
    """As often as R1JAX_KILLS says: while it starts, in both phases and between, while it saves.

    Two runs at a time, since one does not keep two cores busy.
    """
    kills = int(os.environ.get("R1JAX_KILLS", "50"))
    with futures.ThreadPoolExecutor(2) as pool:
        halves = [
            pool.submit(kill_again_and_again, runs, whole_run, tmp_path / name, half)
            for name, half in (("a", kills // 2), ("b", kills - kills // 2))
        ]
        places = [place for half in halves for place in half.result()]
    phases = collections.Counter(phase for phase, _ in places)
    saves = sum(saving for _, saving in places)
    print(f"{kills} kills: {dict(phases)}, {saves} in a save")
    if kills >= 50:
        assert min(phases["start"], phases["pretrain"], phases["rl"], saves) >= 3, places


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
