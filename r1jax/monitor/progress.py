"""What a person watches: one live line on a terminal, a plain line now and then elsewhere."""

import io
import sys
import time
from collections.abc import Mapping


class Progress:
    """The progress of one phase of `total` steps; `first` is where a resumed run goes on."""

    def __init__(
        self,
        phase: str,
        total: int,
        *,
        first: int = 0,
        every: int = 1,
        out: io.TextIOBase | None = None,
        silent: bool = False,
    ) -> None:
        self._phase, self._total, self._first, self._every = phase, total, first, every
        self._out, self._silent = out or sys.stdout, silent
        self._live = self._out.isatty()
        self._start = time.monotonic()
        self._width = 0

    def step(self, done: int, shown: Mapping[str, str]) -> None:
        """`done` steps are behind us; `shown` is label -> formatted value."""
        last = done == self._total
        if not self._live and not last and done % self._every and done != self._first + 1:
            return
        parts = [f"{self._phase} {done:>{len(str(self._total))}}/{self._total}"]
        parts += [f"{label} {value}" for label, value in shown.items()]
        parts.append(f"ETA {self._eta(done)}" if not last else f"took {self._elapsed()}")
        self._print("  ".join(parts), last)

    def say(self, text: str) -> None:
        """A line of its own, under which the live line goes on."""
        self._print(text, True)

    def _print(self, text: str, end: bool) -> None:
        if self._silent:  # another process of the run says it
            return
        if self._live:
            self._out.write("\r" + text.ljust(self._width) + ("\n" if end else ""))
            self._width = 0 if end else len(text)
        else:
            self._out.write(text + "\n")
        self._out.flush()

    def _eta(self, done: int) -> str:
        per_step = (time.monotonic() - self._start) / max(done - self._first, 1)
        return seconds_text(per_step * (self._total - done))

    def _elapsed(self) -> str:
        return seconds_text(time.monotonic() - self._start)


def seconds_text(seconds: float | int) -> str:
    """7s, 3m05s, 2h10m"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
