"""Where metrics go: JSON lines always; TensorBoard and W&B when asked for."""

import contextlib
import importlib
import json
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from r1jax.errors import UserError
from r1jax.monitor.metrics import finite_or_none

Send = Callable[[str, int, Mapping[str, float]], None]
Opened = tuple[Send, Callable[[], None]]  # how to send a record, how to end

WAITING = 256  # records that a sink may be behind
CLOSING_S = 60.0  # for a sink to take what it is behind when the run ends
LOST = "sinks/lost"  # records that a sink did not take, so far in this process


def say_plainly(text: str) -> None:
    print(text, flush=True)


class Sinks:
    """Every record goes to every sink; a line is in metrics.jsonl when `write` returns.

    What the other sinks do never ends the run or holds it up: see `_Aside`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        tensorboard: bool = False,
        wandb_project: str = "",
        silent: bool = False,
        say: Callable[[str], None] = say_plainly,
    ) -> None:
        """`silent`: another process of the run writes."""
        self.path = None if silent else workdir / "metrics.jsonl"
        self._asides: list[_Aside] = []
        if silent:
            return
        if tensorboard:
            module = _import("tensorboardX", "logging.tensorboard", "tensorboard")
            self._asides.append(_Aside("TensorBoard", lambda: _tensorboard(module, workdir), say))
        if wandb_project:
            module = _import("wandb", "logging.wandb_project", "wandb")
            self._asides.append(_Aside("W&B", lambda: _wandb(module, workdir, wandb_project), say))

    def write(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        if self.path is None:
            return
        if self._asides:
            metrics = {**metrics, LOST: sum(aside.lost for aside in self._asides)}
        append_json_line(self.path, {"phase": phase, "step": step, **finite_or_none(metrics)})
        for aside in self._asides:
            aside.put((phase, step, metrics))

    def close(self) -> None:
        for aside in self._asides:
            aside.close()


class _Aside:
    """A sink in a thread of its own: that it fails, hangs or is slow costs records, never the run.

    A thread, because tensorboardX blocks for ever once its own writer has met a full disk. What is
    wrong is said once; how many records were lost is a metric.
    """

    def __init__(self, name: str, make: Callable[[], Opened], say: Callable[[str], None]) -> None:
        self._name, self._say, self._told = name, say, False
        self._dropped = self._failed = 0  # each counted by one thread only
        self._waiting: queue.Queue[tuple[str, int, Mapping[str, float]] | None]
        self._waiting = queue.Queue(WAITING)
        # Opened here: W&B asks questions on the terminal and handles signals.
        self._opened = _open(make)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        return self._dropped + self._failed

    def put(self, record: tuple[str, int, Mapping[str, float]]) -> None:
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped += 1
            self._complain(f"is {WAITING} records behind and gets no more until it catches up")

    def close(self) -> None:
        deadline = time.monotonic() + CLOSING_S
        with contextlib.suppress(queue.Full):  # said below
            self._waiting.put(None, timeout=CLOSING_S)
            self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            self._say(f"{self._name}: did not end in {CLOSING_S:g} s; metrics.jsonl is complete")

    def _work(self) -> None:
        send, close = self._opened
        while (record := self._waiting.get()) is not None:
            try:
                send(*record)
            except Exception as error:  # noqa: BLE001 whatever a tracker raises, the run goes on
                self._failed += 1
                self._complain(f"does not take metrics ({_in_short(error)})")
        try:
            close()
        except Exception as error:  # noqa: BLE001 the same at the end
            self._complain(f"did not end well ({_in_short(error)})")

    def _complain(self, what: str) -> None:
        if not self._told:
            self._told = True
            self._say(
                f"{self._name}: {what}; the run goes on, metrics.jsonl is complete, {LOST} counts"
            )


def _open(make: Callable[[], Opened]) -> Opened:
    """One that cannot be opened is a sink that takes nothing, for that very reason."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 whatever a tracker raises, the run goes on
        reason = error

    def refuse(*_: Any) -> None:
        raise reason

    return refuse, lambda: None


def _tensorboard(module: Any, workdir: pathlib.Path) -> Opened:
    writer = module.SummaryWriter(str(workdir / "tensorboard"))

    def send(phase: str, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(f"{phase}/{name}", value, step)

    return send, writer.close


def _wandb(module: Any, workdir: pathlib.Path, project: str) -> Opened:
    run = module.init(project=project, dir=str(workdir), name=workdir.name, resume="allow")

    def send(phase: str, step: int, metrics: Mapping[str, float]) -> None:
        run.log({f"{phase}/{name}": value for name, value in metrics.items()} | {"step": step})

    return send, run.finish


def _in_short(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def append_json_line(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _import(module: str, key: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"config.{key} needs the package {module}: pip install 'r1jax[{extra}]'"
        ) from error
