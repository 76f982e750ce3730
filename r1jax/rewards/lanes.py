"""A few daemon threads that work through calls: for what waits on a process or on the network.

Unlike `concurrent.futures`, nothing of this keeps the process alive: a judge that answers after an
hour is not waited for at the end.
"""

import atexit
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards.code import Piston, SandboxFusion, levels
from r1jax.rewards.code.sandbox import Sandbox

Task = Callable[..., Any]
_CLOSE_S = 5.0


class Lanes:
    """`make_lane()` is a context manager whose value each call of that thread gets, if given."""

    def __init__(self, name: str, count: int, make_lane: Callable[[], Any] | None = None) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any] | None, Task] | None] = queue.SimpleQueue()
        self._make_lane = make_lane
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"r1jax-{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def call(self, task: Task) -> Future[Any]:
        """The future result of `task(lane)`, or `task()` without lanes of a kind."""
        future: Future[Any] = Future()
        self._queue.put((future, task))
        return future

    def put(self, task: Callable[[], None]) -> None:
        """Run a task that tells its results itself."""
        self._queue.put((None, task))

    def close(self) -> None:
        """Drop what waits, end idle threads; what runs is waited for a moment only."""
        atexit.unregister(self.close)
        self._closed.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(_CLOSE_S if self._make_lane else 0.0)

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            make_lane = self._make_lane
            arguments: tuple[Any, ...] | None = None if make_lane else ()
            while (entry := self._queue.get()) is not None:
                future, task = entry
                if self._closed.is_set():
                    if future is not None:
                        future.cancel()
                    continue
                try:
                    if arguments is None and make_lane is not None:
                        arguments = (stack.enter_context(make_lane()),)
                    result = task(*(arguments or ()))
                except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                    if future is not None:
                        future.set_exception(error)
                else:
                    if future is not None:
                        future.set_result(result)


class SandboxLane:
    """Makes the sandbox, or the client of a remote one, that a thread keeps from run to run.

    Takes what concerns it out of the settings of `code`: `service` and `url`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Any]:
        service, url = self._settings.get("service", "local"), self._settings.get("url", "")
        if service != "local":
            yield REMOTE[service](url)
            return
        try:
            info = levels.sandbox_info(
                self._settings.get("level"),
                allow_unsafe=self._settings.get("allow_unsafe", False),
            )
        except levels.SandboxError as error:
            raise UserError(f"code sandbox: {error}") from error
        with Sandbox(info.level, fsize_mb=self._settings.get("fsize_mb", 16)) as sandbox:
            yield sandbox


REMOTE = {"sandbox_fusion": SandboxFusion, "piston": Piston}
