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

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        before, self._inside = self._inside, 0.0
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.total[phase] += seconds - self._inside
            self._lap[phase] += seconds - self._inside
            self._inside = before + seconds

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
