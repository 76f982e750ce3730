"""Where the time goes: named phases, and what XLA spends compiling."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Clock:
    """Seconds by phase, added up; `lap()` gives what came since the last lap.

    A phase within another one is no part of that one's time.
    """

    def __init__(self) -> None:
        self.total: dict[str, float] = defaultdict(float)
        self._lap: dict[str, float] = defaultdict(float)
        self._inside = 0.0  # seconds of phases that ended within the one that is open
        self._open: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        before, self._inside = self._inside, 0.0
        try:
            with self.watch(phase):
                yield
        finally:
            seconds = time.perf_counter() - start
            self.total[phase] += seconds - self._inside
            self._lap[phase] += seconds - self._inside
            self._inside = before + seconds

    @contextlib.contextmanager
    def watch(self, phase: str) -> Iterator[None]:
        """A phase for the watchdog only, whose seconds are not counted."""
        self._open.append((phase, time.perf_counter()))
        try:
            yield
        finally:
            self._open.pop()

    def waiting(self) -> tuple[str, float, float]:
        """(the phase that began last and is not over, when it began, its seconds): for another
        thread; ("", 0, 0) between phases."""
        phase, began = (self._open[-1:] or [("", 0.0)])[0]
        return phase, began, time.perf_counter() - began if phase else 0.0

    def lap(self) -> dict[str, float]:
        lap, self._lap = dict(self._lap), defaultdict(float)
        return lap


class CompileCounter:
    """How many programs XLA has compiled in this process, and the seconds that took."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILE_EVENT:
            self.count += 1
            self.seconds += duration_secs

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_event)
