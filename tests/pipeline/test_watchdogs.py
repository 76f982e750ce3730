"""A run that waits too long ends in one line, and the same command goes on."""

import shutil

import pytest
from runs import assert_same_run


@pytest.mark.slow
def test_a_run_that_waits_for_ever_is_ended_and_goes_on(runs, whole_run, tmp_path):
    workdir = tmp_path / "waits"
    shutil.copytree(whole_run, workdir)
    shutil.rmtree(workdir / "checkpoints/rl/12")
    # The first rollout compiles: longer than this.
    limits = ["--config.watchdog.warn_s=0.1", "--config.watchdog.end_s=0.4"]
    done = runs.run(workdir, *limits)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "watchdog: " in done.stdout
    (line,) = done.stderr.splitlines()
    assert "has been going for" in line
    assert "the same command goes on from there" in line
    assert "Thread 0x" in (workdir / "stacks/process_0.txt").read_text()
    assert runs.run(workdir).returncode == 0
    assert_same_run(workdir, whole_run)
