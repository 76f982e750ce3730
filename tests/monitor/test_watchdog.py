"""A phase that takes too long is named, and one that never ends is ended."""

import subprocess
import sys
import threading
import time

from r1jax.monitor import watchdog
from r1jax.monitor.clock import Clock


def watch(tmp_path, phases, **limits):
    """(what was said, why it was ended) of phases of so many seconds, one after the other."""
    clock, said, ended = Clock(), [], []
    limits = {"warn_s": 0.0, "end_s": 0.0, **limits}
    stacks = tmp_path / "stacks" / "process_0.txt"
    with watchdog.watching(clock, stacks, say=said.append, end=ended.append, **limits):
        for phase, seconds in phases:
            with clock(phase):
                time.sleep(seconds)
    return said, ended


def test_a_slow_phase_is_said_once_with_its_stacks(tmp_path):
    phases = [("pack", 0.01), ("grade", 1.0), ("update", 0.01), ("grade", 1.0)]
    said, ended = watch(tmp_path, phases, warn_s=0.3, waiting=lambda: "process 1 is late")
    assert len(said) == 2  # twice slow, each said once
    assert said[0].startswith("watchdog: grade has been going for 0s, longer than config.watchdog")
    assert "process 1 is late" in said[0]
    assert not ended
    written = (tmp_path / "stacks/process_0.txt").read_text()
    assert written.count("grade has been going for") == 2
    assert "test_watchdog.py" in written  # where the phase waits


def test_within_another_phase_each_counts_for_itself(tmp_path):
    clock = Clock()
    with clock("rollout"):
        time.sleep(0.05)
        with clock.watch("grade"):
            phase, _, seconds = clock.waiting()
            assert (phase, seconds < 0.05) == ("grade", True)
        assert clock.waiting()[0] == "rollout"
        assert clock.waiting()[2] > 0.05
    assert clock.waiting() == ("", 0.0, 0.0)
    assert set(clock.lap()) == {"other", "rollout"}  # what is only watched is not counted


def test_off_is_off(tmp_path):
    before = threading.active_count()
    with watchdog.watching(Clock(), tmp_path / "s", warn_s=0.0, end_s=0.0, say=print, end=print):
        assert threading.active_count() == before


ENDED = """
import pathlib, sys, time
from r1jax import cluster
from r1jax.monitor import watchdog
from r1jax.monitor.clock import Clock
clock = Clock()
end = lambda text: cluster.end_at_once(f"r1jax train: {text}", 2)
stacks = pathlib.Path(sys.argv[1]) / "stacks.txt"
with watchdog.watching(clock, stacks, warn_s=0.0, end_s=0.5, say=print, end=end):
    with clock("checkpoint"):
        time.sleep(60)
"""


def test_a_phase_that_never_ends_is_ended_in_one_line(tmp_path):
    command = [sys.executable, "-c", ENDED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("r1jax train: checkpoint has been going for")
    assert "config.watchdog.end_s=0.5" in line
    assert 'File "<string>", line 11' in (tmp_path / "stacks.txt").read_text()
