"""The line a person watches, on a terminal and in a log file."""

import io

import pytest

from r1jax.monitor.progress import Progress, seconds_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_live_line_that_is_wiped_clean():
    out = Terminal()
    progress = Progress("rl", 3, out=out)
    progress.step(1, {"reward": "0.25 and long"})
    progress.step(2, {"reward": "0.5"})
    progress.step(3, {"reward": "1"})
    first, second, third = out.getvalue().split("\r")[1:]
    assert "rl 1/3  reward 0.25 and long  ETA" in first
    assert len(second) >= len(first)  # covers what was there
    assert third.endswith("\n")
    assert "took" in third
    assert out.getvalue().count("\n") == 1


def test_a_log_file_has_plain_lines_now_and_then_first_and_last():
    out = io.StringIO()
    progress = Progress("rl", 25, every=10, out=out)
    for done in range(1, 26):
        progress.step(done, {})
    steps = [line.split()[1] for line in out.getvalue().splitlines()]
    assert steps == ["1/25", "10/25", "20/25", "25/25"]
    assert "\r" not in out.getvalue()


def test_a_message_does_not_mix_with_the_live_line():
    out = Terminal()
    progress = Progress("rl", 3, out=out)
    progress.step(1, {"reward": "0.25 and quite long"})
    progress.say("saved")
    assert out.getvalue().endswith("\n")
    assert out.getvalue().split("\r")[-1].rstrip() == "saved"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (60, "1m00s"), (185, "3m05s"), (7800, "2h10m")],
)
def test_times_read_well(seconds, text):
    assert seconds_text(seconds) == text
