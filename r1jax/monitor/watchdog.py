"""Says which phase of a run waits, and for how long; ends a run that waits for ever.

A thread looks at the run's clock. It dumps the stacks of all threads to the workdir, so that what
the run waits for can be read afterwards.
"""

import contextlib
import datetime
import faulthandler
import pathlib
import threading
from collections.abc import Callable, Iterator

from r1jax.monitor.clock import Clock
from r1jax.monitor.progress import seconds_text

FOLDER = "stacks"
_LOOKS = 20  # within a limit


@contextlib.contextmanager
def watching(
    clock: Clock,
    stacks: pathlib.Path,
    *,
    warn_s: float,
    end_s: float,
    say: Callable[[str], None],
    end: Callable[[str], object],
    waiting: Callable[[], str] = str,
) -> Iterator[None]:
    """While this is open, a phase of the clock that takes longer than `warn_s` is said, each time
    once, and one that takes longer than `end_s` is the end; 0 = never. `waiting` adds what is known
    of the reason; stacks are appended to the file `stacks`."""
    limits = [limit for limit in (warn_s, end_s) if limit > 0]
    if not limits:
        yield
        return
    over = threading.Event()

    def look() -> None:
        told = 0.0  # when the phase began that was said last
        while not over.wait(min(limits) / _LOOKS):
            phase, began, seconds = clock.waiting()
            if end_s and seconds > end_s:
                dump(stacks, phase, seconds)
                end(_text(phase, seconds, waiting(), f"config.watchdog.end_s={end_s:g}", stacks))
                return
            if warn_s and seconds > warn_s and began != told:
                told = began
                dump(stacks, phase, seconds)
                limit = f"config.watchdog.warn_s={warn_s:g}"
                say(f"watchdog: {_text(phase, seconds, waiting(), limit, stacks)}")

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)


def _text(phase: str, seconds: float, reason: str, limit: str, stacks: pathlib.Path) -> str:
    why = f", {reason}" if reason else ""
    return (
        f"{phase} has been going for {seconds_text(seconds)}, longer than {limit}{why}; the stacks "
        f"of all threads are in {stacks}"
    )


def dump(stacks: pathlib.Path, phase: str, seconds: float) -> None:
    """What every thread of this process is doing, appended. A full disk must not end the watch."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):
        stacks.parent.mkdir(exist_ok=True)
        with stacks.open("a") as file:
            file.write(f"\n{now}: {phase} has been going for {seconds_text(seconds)}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
