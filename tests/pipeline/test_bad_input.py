"""What a person can get wrong, or a machine can run out of, ends in one line and loses nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from runs import assert_same_run

from r1jax.cli import main
from r1jax.errors import UserError
from r1jax.training import workdir as workdir_lib


def one_line(done) -> str:
    """The error as the person sees it."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("r1jax train: ")
    return lines[0]


def test_a_workdir_of_another_config_is_refused_with_the_keys(runs, whole_run):
    before = (whole_run / "config.json").read_text()
    message = one_line(runs.run(whole_run, "--config.optim.lr=0.5", "--config.seed=9"))
    assert "optim.lr (0.001 there, 0.5 now)" in message
    assert "seed (0 there, 9 now)" in message
    assert "--overwrite" in message
    assert (whole_run / "config.json").read_text() == before


def test_what_changes_nothing_learned_may_differ(runs, whole_run):
    flags = [
        "--config.logging.every=5",
        "--config.checkpoint.keep=3",
        "--config.batch.tokens_per_device=64",
    ]
    assert runs.run(whole_run, *flags).returncode == 0
    assert runs.run(whole_run).returncode == 0  # and back again


def test_overwrite_starts_anew_and_leaves_other_files(runs, whole_run, tmp_path):
    workdir = tmp_path / "old"
    shutil.copytree(whole_run, workdir)
    (workdir / "notes.txt").write_text("mine")
    done = runs.run(workdir, "--overwrite", "--config.seed=1", "--config.rl.steps=1")
    assert done.returncode == 0, done.stderr
    assert (workdir / "notes.txt").read_text() == "mine"
    assert json.loads((workdir / "config.json").read_text())["seed"] == 1
    assert json.loads((workdir / "summary.json").read_text())["seed"] == 1


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_shorter_one(runs, whole_run, tmp_path):
    workdir = tmp_path / "short"
    assert runs.run(workdir, "--config.rl.steps=8").returncode == 0
    done = runs.run(workdir)
    assert done.returncode == 0, done.stderr
    assert "goes on at step 8" in done.stdout
    assert_same_run(workdir, whole_run)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.batch.row_length=8", "a prompt and response can have 14 tokens"),
        ("--config.model.attention=splash", "needs a TPU"),
    ],
)
def test_a_shape_that_cannot_be_trained_is_refused_before_pre_training(
    runs, tmp_path, flag, message
):
    done = runs.run(tmp_path / "run", flag)
    assert message in one_line(done)
    assert not done.stdout
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("workdir", ["/dev/null/run", "/proc/r1jax_run"])
def test_an_unwritable_workdir_is_named(runs, workdir):
    assert f"--workdir={workdir}: cannot be written" in one_line(runs.run(workdir))


def test_going_back_where_no_run_is_makes_none(runs, tmp_path):
    done = runs.run(tmp_path / "new", "--resume=5")
    assert "new: no run here" in one_line(done)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flags", [["--overwrite"], ["--replay=3"]])
def test_a_workdir_where_another_process_is_at_work_is_refused(runs, whole_run, flags):
    def files() -> dict:
        return {p: p.stat().st_mtime_ns for p in whole_run.rglob("*") if p.name != ".lock"}

    before = files()
    if "--replay=3" in flags:  # takes no config
        command = ["train", f"--workdir={whole_run}", *flags]
    else:
        command = runs.arguments(whole_run, *flags)
    with workdir_lib.hold(whole_run):
        message = one_line(runs.r1jax(*command))
    assert f"--workdir={whole_run}: process {os.getpid()} on " in message
    assert "is at work there; wait until it has ended, or name another workdir" in message
    assert files() == before


def test_a_workdir_is_held_by_one_and_given_back(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workdir_lib, "LOCK_WAIT_S", 0.0)
    with workdir_lib.hold(tmp_path) as held:
        # What a grader starts must not go on holding it when the run is gone.
        assert not os.get_inheritable(held.fileno())
        with pytest.raises(UserError, match="is at work there"):
            workdir_lib.hold(tmp_path)
    workdir_lib.hold(tmp_path).close()
    monkeypatch.setattr(workdir_lib.fcntl, "flock", no_locks)
    workdir_lib.hold(tmp_path).close()
    assert "has no locks (No locks available); see to it" in capsys.readouterr().out


def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_corrupt_saved_config_is_named(runs, tmp_path):
    (tmp_path / "config.json").write_text("{half")
    assert "config.json: cannot be read" in one_line(runs.run(tmp_path))


@pytest.mark.parametrize("phase", [pytest.param("pretrain", marks=pytest.mark.slow), "rl"])
def test_a_loss_that_is_not_finite_stops_the_run_with_the_batch(runs, tmp_path, phase):
    key = {"pretrain": "pretrain.optim.lr", "rl": "optim.lr"}[phase]
    message = one_line(runs.run(tmp_path, f"--config.{key}=1e38"))
    assert f"{phase} step" in message
    assert "not finite" in message
    (saved,) = tmp_path.glob(f"nonfinite_{phase}_*.npz")
    assert str(saved) in message
    batch = np.load(saved)
    assert batch["mask"].any()
    assert batch["tokens"].shape == batch["mask"].shape
    # Only steps whose numbers were finite have checkpoints.
    step = int(saved.stem.rpartition("_")[2])
    assert all(int(p.name) <= step for p in (tmp_path / "checkpoints" / phase).iterdir())


def test_every_checkpoint_damaged_says_what_to_do(runs, whole_run, tmp_path):
    workdir = tmp_path / "hopeless"
    shutil.copytree(whole_run, workdir)
    for step in (workdir / "checkpoints/rl").iterdir():
        (step / "run" / "metadata").unlink()
    done = runs.run(workdir)
    assert done.returncode == 2
    assert "every checkpoint is damaged" in done.stderr
    assert "--overwrite" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def small_disk(command: list[str], folder: str, kilobytes: int) -> list[str]:
    """The command with a file system of that size at `folder`, in a mount namespace of its own."""
    script = f"mount -t tmpfs -o size={kilobytes}k tmpfs {folder} && exec {' '.join(command)}"
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script]


def can_mount(folder: str) -> bool:
    probe = small_disk(["true"], folder, 16)
    return bool(shutil.which("unshare")) and (
        subprocess.run(probe, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize(
    "kilobytes", [4, *(pytest.param(k, marks=pytest.mark.slow) for k in (24, 800)), 1400]
)
def test_a_full_disk_is_one_line_and_keeps_what_was_good(runs, tmp_path, kilobytes):
    if not can_mount(str(tmp_path)):
        pytest.skip("this machine lets nobody mount a small file system")
    command = runs.command(tmp_path / "run")
    done = runs.finish(small_disk(command, str(tmp_path), kilobytes))
    message = one_line(done)
    assert "space" in message, message


CLI = {
    ("train",): "--config is missing",
    ("train", "--confg=x.py"): "did you mean: config",
    ("train", "--config=nowhere.py"): "no such file",
    ("train", "extra"): "unexpected argument 'extra'",
    ("trian",): "did you mean train",
    ("report",): "give one folder",
    ("report", "nowhere"): "nowhere",
    ("evaluate", "nowhere"): "no run here",
    ("sample", "nowhere"): "no run here",
    ("sample",): "give one folder",
    ("presets", "dappo"): "dapo",
}


@pytest.mark.parametrize("arguments", CLI, ids=" ".join)
def test_command_line_mistakes(capsys, arguments):
    assert main.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert CLI[arguments].lower() in line.lower()


COMMANDS = [[], ["train"], ["report"], ["sample"], ["evaluate"], ["convert"], ["presets"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_helps(runs, command):
    done = runs.finish([sys.executable, "-m", "r1jax", *command, "--help"])
    assert done.returncode == 0
    assert "usage: r1jax" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
