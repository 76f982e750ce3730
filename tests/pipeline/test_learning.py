"""The claim itself: a model learns to reason, and a coin teaches it nothing."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

pytestmark = pytest.mark.slow


def train(workdir, name: str, *flags: str) -> tuple[dict, dict]:
    """(before, after) of a whole run, compiled as a user's is."""
    command = [sys.executable, "-m", "r1jax", "train", f"--config={CONFIGS / name}.py"]
    done = subprocess.run(
        [*command, f"--workdir={workdir}", *flags],
        env={key: value for key, value in os.environ.items() if key != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return read(workdir)


def read(workdir) -> tuple[dict, dict]:
    summary = json.loads((workdir / "summary.json").read_text())
    return summary["before"], summary["after"]


@pytest.fixture(scope="module")
def r1_zero(tmp_path_factory) -> pathlib.Path:
    # The same command on a finished run finds it finished: CI has made one.
    made = os.environ.get("R1JAX_TINY_RUN")
    workdir = pathlib.Path(made) if made else tmp_path_factory.mktemp("r1_zero")
    train(workdir, "r1_zero_tiny")
    return workdir


@pytest.fixture
def pretrained(r1_zero, tmp_path) -> pathlib.Path:
    """The workdir of a run that has its base already: the other configs pre-train the same one."""
    shutil.copytree(r1_zero / "checkpoints/pretrain", tmp_path / "checkpoints/pretrain")
    return tmp_path


@pytest.mark.parametrize("name", ["r1_zero_tiny", "dapo_tiny"])
def test_accuracy_and_length_rise_together(r1_zero, pretrained, name):
    before, after = read(r1_zero) if name == "r1_zero_tiny" else train(pretrained, name)
    assert before["greedy_accuracy"] < 0.2
    assert before["accuracy"] < 0.2
    assert before["mean_length"] < 6.5
    assert after["accuracy"] >= 0.97
    assert after["greedy_accuracy"] >= 0.97
    assert after["mean_length"] >= 2 * before["mean_length"]
    # Reasoning is what pays, before and after.
    assert before["accuracy_with_reasoning"] > before["accuracy_without_reasoning"] + 0.5


@pytest.mark.long
def test_samples_of_the_step_before_teach_as_much(pretrained):
    flags = ["rl.asynchronous=true", "objective.correction=tis", "objective.correction_high=2.0"]
    _, after = train(pretrained, "r1_zero_tiny", *(f"--config.{flag}" for flag in flags))
    assert after["accuracy"] >= 0.97
    assert after["greedy_accuracy"] >= 0.97
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    ages = [line["staleness/mean"] for line in lines if line["phase"] == "rl"]
    assert ages == [0.5, *[2.5] * 79]  # two updates a step


def test_a_random_reward_teaches_nothing(pretrained):
    before, after = train(pretrained, "r1_zero_tiny", "--config.reward=random")
    assert before["accuracy_with_reasoning"] >= 0.9  # as good a base as the real run's
    assert after["accuracy"] < 0.2
    assert after["greedy_accuracy"] < 0.2
