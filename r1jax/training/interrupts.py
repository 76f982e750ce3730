"""Ctrl-C and SIGTERM: finish the step, write a checkpoint, leave."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop and has saved itself. `exit_code` is what the process returns."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        # 130 is what a shell expects after Ctrl-C; a preempted job has done all that was asked.
        self.exit_code = 130 if signum == signal.SIGINT else 0


class Interrupts:
    """Remembers the first SIGINT or SIGTERM; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # Python allows handlers in the main thread only; elsewhere the caller keeps its own.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if signum == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        self.received = signum

    def raise_if_received(self) -> None:
        """Call where nothing is left to save."""
        if self.received is not None:
            raise Interrupted(self.received)
