"""Rewards from worker processes: a run that was killed ends the same, and leaves no worker."""

import json
import os
import pathlib
import time

import pytest
from runs import Runs, assert_same_run

PART = """
def digits(sample, *, most):
    return min(sum(c.isdigit() for c in sample.text), most) / most

def middle(samples):
    order = sorted(range(len(samples)), key=lambda i: (samples[i].n_tokens, i))
    return [1.0 if i == order[len(order) // 2] else None if i == order[0] else 0.0
            for i in range(len(samples))]
"""
FLAGS = (
    "--config.reward_weights.soft_overlong=0.5",
    "--config.grading.settings.soft_overlong.max_len=10",
    "--config.grading.settings.soft_overlong.cache=4",
    "--config.reward_weights.kimi_length=0.1",
    "--config.grading.when_correct=('kimi_length',)",
)
CUSTOM = {"our_parts:digits": 0.1, "our_parts:middle": 0.1}


def workers():
    """Processes of the grader's pool, on the whole machine."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if b"r1jax.rewards.workers" in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return set(found)


@pytest.fixture
def own(tmp_path):
    """Runs whose rewards are in a module of their own."""
    (tmp_path / "our_parts.py").write_text(PART)
    extra = {
        "reward_weights": {"accuracy": 1.0, **CUSTOM},
        "grading": {"settings": {"our_parts:digits": {"most": 4}}},
    }
    with Runs(tmp_path) as runs:
        runs.env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        text = runs.config.read_text()
        runs.config.write_text(text.replace('"name": "micro",', f'"name": "micro", **{extra},'))
        yield runs


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_own_rewards(own, tmp_path):
    before = workers()
    whole = tmp_path / "whole"
    done = own.run(whole, *FLAGS)
    assert done.returncode == 0, done.stderr
    killed = tmp_path / "killed"
    for lines in (7, 11):
        process = own.start(killed, *FLAGS)
        metrics = killed / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") >= lines:
                break
            time.sleep(0.002)
        process.kill()
        process.communicate()
    done = own.run(killed, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert_same_run(killed, whole)
    logged = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in logged if line["phase"] == "rl")
    assert step["reward/masked"] == 0.25  # one of each four
    assert {f"rewards/{name}/mean" for name in (*CUSTOM, "soft_overlong")} <= set(step)
    assert step["grading/crash"] == step["grading/timeout"] == 0
    time.sleep(1)
    assert workers() <= before
