"""Where the time goes: named phases, and what XLA spends compiling."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
OTHER = "other"


class Clock:
    """Seconds by phase: `lap()` gives all that came since the last lap.

    A phase within another one is no part of that one's time; outside of all of them it is `other`.
    """

    def __init__(self) -> None:
        self._lap: dict[str, float] = defaultdict(float)
        self._phases: list[str] = [OTHER]  # within each other; the last one's time runs
        self._since = time.perf_counter()
        self._open: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._charge()
        self._phases.append(phase)
        try:
            with self.watch(phase):
                yield
        finally:
            self._charge()
            self._phases.pop()

    def _charge(self) -> None:
        phase, now = self._phases[-1], time.perf_counter()
        self._lap[phase] += now - self._since
        self._since = now

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
        self._charge()
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
