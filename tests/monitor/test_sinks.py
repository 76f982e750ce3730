"""Where metrics go."""

import json
import sys
import types

import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.monitor.sinks import Sinks


def test_json_lines_say_null_for_what_is_not_a_number(tmp_path):
    sinks = Sinks(tmp_path)
    sinks.write("rl", 3, {"reward": 0.5, "accuracy": float("nan"), "loss": np.inf, "n": 2})
    sinks.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "phase": "rl",
        "step": 3,
        "reward": 0.5,
        "accuracy": None,
        "loss": None,
        "n": 2,
    }


def test_lines_are_on_disk_at_once_and_appended(tmp_path):
    for step in range(3):
        Sinks(tmp_path).write("rl", step, {"reward": 1.0})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


class FakeWriter:
    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.closed = folder, [], False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_every_number_under_its_phase(tmp_path, monkeypatch):
    writers = []
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = lambda folder: writers.append(FakeWriter(folder)) or writers[-1]
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    sinks = Sinks(tmp_path, tensorboard=True)
    sinks.write("rl", 3, {"reward": 0.5, "entropy": 1.0})
    sinks.close()
    assert writers[0].scalars == [("rl/reward", 0.5, 3), ("rl/entropy", 1.0, 3)]
    assert writers[0].closed


@pytest.mark.parametrize(
    ("package", "options"),
    [("tensorboardX", {"tensorboard": True}), ("wandb", {"wandb_project": "p"})],
)
def test_a_sink_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch, package, options):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'r1jax\[{package.lower().rstrip('x')}\]'"):
        Sinks(tmp_path, **options)
