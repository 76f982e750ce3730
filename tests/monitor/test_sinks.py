"""Where metrics go."""

import json
import sys
import threading
import time
import types

import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.monitor import sinks as sinks_lib
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
    assert writers[0].scalars == [
        ("rl/reward", 0.5, 3),
        ("rl/entropy", 1.0, 3),
        ("rl/sinks/lost", 0, 3),
    ]
    assert writers[0].closed


@pytest.mark.parametrize(
    ("package", "options"),
    [("tensorboardX", {"tensorboard": True}), ("wandb", {"wandb_project": "p"})],
)
def test_a_sink_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch, package, options):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'r1jax\[{package.lower().rstrip('x')}\]'"):
        Sinks(tmp_path, **options)


def fake_tracker(monkeypatch, init) -> None:
    module = types.ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)


def fail(*_, **__) -> None:
    raise ConnectionError("no route to the tracker\nat all")


def read_lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "init",
    [
        fail,
        lambda **_: types.SimpleNamespace(log=fail, finish=lambda: None),
        lambda **_: types.SimpleNamespace(log=fail, finish=fail),
    ],
    ids=["cannot start", "goes down", "cannot even end"],
)
def test_a_tracker_that_is_down_is_said_once_and_counted(tmp_path, monkeypatch, init):
    fake_tracker(monkeypatch, init)
    said = []
    sinks = Sinks(tmp_path, wandb_project="p", say=said.append)
    for step in range(4):
        sinks.write("rl", step, {"reward": 1.0})
        deadline = time.monotonic() + 20
        while sinks._asides[0].lost <= step and time.monotonic() < deadline:
            time.sleep(0.001)
    sinks.close()
    assert [(line["step"], line["sinks/lost"]) for line in read_lines(tmp_path)] == [
        (step, step) for step in range(4)
    ]
    (line,) = said
    assert line.startswith("W&B: does not take metrics (ConnectionError: no route to the tracker)")
    assert "\n" not in line


def test_a_tracker_that_hangs_holds_up_nothing(tmp_path, monkeypatch):
    """As tensorboardX does for ever once its own thread has met a full disk."""
    let_go = threading.Event()
    fake_tracker(
        monkeypatch,
        lambda **_: types.SimpleNamespace(log=lambda _: let_go.wait(60), finish=lambda: None),
    )
    monkeypatch.setattr(sinks_lib, "WAITING", 2)
    monkeypatch.setattr(sinks_lib, "CLOSING_S", 0.01)
    said = []
    sinks = Sinks(tmp_path, wandb_project="p", say=said.append)
    for step in range(9):
        sinks.write("rl", step, {"reward": 1.0})
    sinks.close()
    let_go.set()
    lines = read_lines(tmp_path)
    assert [line["step"] for line in lines] == list(range(9))
    assert lines[-1]["sinks/lost"] >= 5  # at most one is being sent and two wait
    assert ["records behind" in text for text in said] == [True, False]
    assert "did not end" in said[1]


def test_a_sink_that_recovers_takes_the_rest(tmp_path, monkeypatch):
    taken = []

    def log(values):
        if values["step"] < 2:
            raise OSError(28, "No space left on device")
        taken.append(values)

    fake_tracker(monkeypatch, lambda **_: types.SimpleNamespace(log=log, finish=lambda: None))
    sinks = Sinks(tmp_path, wandb_project="p", say=lambda _: None)
    for step in range(4):
        sinks.write("rl", step, {"reward": 1.0})
    sinks.close()
    assert [values["step"] for values in taken] == [2, 3]
