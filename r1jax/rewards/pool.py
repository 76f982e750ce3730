"""Worker processes for rewards that need a hard limit: a deadline that is kept, memory that is
bounded, any crash survived.

One item per worker at a time over one socket each, as length-prefixed JSON. The parent keeps the
deadlines and has a worker that overruns killed with its process group and replaced by a fresh fork.
Equal items in a batch are sent once and results are cached. A pool may be shared by threads and be
used next to JAX: this process never forks, it only executes a new interpreter (`pool_worker`), and
the user's `__main__` is not imported anywhere.

    with Pool("package.module:function", workers=4) as pool:
        outcomes = pool.map([{"x": 1}, {"x": 2}], timeout_s=2.0, deadline_s=60.0)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from r1jax.rewards.pool_worker import send_message, take_message

START_TIMEOUT_S = 60.0
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from r1jax.rewards.pool_worker import main; main()"
)


class PoolError(RuntimeError):
    """The pool itself cannot work: the target does not import, or the pool is closed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """status: ok, error (the function raised), timeout, crash, or deadline (the batch's time was
    over first).
    """

    status: str
    value: Any = None
    detail: str = ""
    seconds: float = 0.0
    queue_seconds: float = 0.0
    cached: bool = False


@dataclass(eq=False, slots=True)
class _Worker:
    pid: int
    channel: socket.socket
    server: subprocess.Popen[bytes]
    buffer: bytearray = field(default_factory=bytearray)
    served: int = 0


@dataclass(eq=False, slots=True)
class _Batch:
    """One call of `map`: what waits, what runs where until when, and what is done."""

    items: dict[str, Any]
    timeout_s: float
    deadline: float
    started: float
    waiting: deque[str]
    running: dict[_Worker, tuple[str, float, float]] = field(
        default_factory=dict
    )  # key, start, limit
    done: dict[str, Outcome] = field(default_factory=dict)


def _digest(key: str) -> bytes:
    """What the cache keeps of an item, which may be a response of any length."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _packet(control: socket.socket) -> bytes:
    data = control.recv(64)
    if not data:
        raise EOFError("closed")
    return data


class Pool:
    """`target` is "module:function"; the function maps one JSON value to another and must be
    importable.
    """

    def __init__(
        self,
        target: str,
        *,
        workers: int = 2,
        memory_mb: int = 2048,
        recycle_after: int = 5000,
        cache_size: int = 1 << 13,
    ) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, not {workers}")
        self.target = target
        self.workers = workers
        self.memory_mb = memory_mb
        self.recycle_after = recycle_after
        self.cache_size = cache_size
        self.counters: Counter[str] = Counter()
        self.queue_seconds = 0.0
        self._changed = threading.Condition()
        self._idle: deque[_Worker] = deque()
        self._alive = 0
        self._cache: OrderedDict[bytes, Any] = OrderedDict()  # values of `ok`, by `_digest`
        self._server_lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False
        self._owner = os.getpid()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # use

    def map(
        self, items: Sequence[Any], *, timeout_s: float = 2.0, deadline_s: float | None = None
    ) -> list[Outcome]:
        """One outcome per item, in order. `timeout_s` bounds an item in its worker, `deadline_s`
        the whole batch.
        """
        if self._closed or os.getpid() != self._owner:
            raise PoolError(
                "the pool is closed, or belongs to the process that this one was forked from"
            )
        start = time.monotonic()
        keys = [json.dumps(item, sort_keys=True) for item in items]
        unique = dict(zip(keys, items, strict=True))
        done = self._cached(unique)
        waiting = deque(key for key in unique if key not in done)
        deadline = start + (deadline_s if deadline_s is not None else float("inf"))
        batch = _Batch(unique, timeout_s, deadline, start, waiting, done=done)
        try:
            self._run(batch)
        finally:
            for worker in list(batch.running):  # only after an exception such as KeyboardInterrupt
                self._discard(worker)
        with self._changed:
            self.counters["items"] += len(items)
            self.counters["deduplicated"] += len(items) - len(unique)
        return [batch.done[key] for key in keys]

    async def map_async(
        self, items: Sequence[Any], *, timeout_s: float = 2.0, deadline_s: float | None = None
    ) -> list[Outcome]:
        return await asyncio.to_thread(self.map, items, timeout_s=timeout_s, deadline_s=deadline_s)

    def stats(self) -> dict[str, int | float]:
        """Counts since the start: items, cache_hits, deduplicated, ok, error, timeout, crash,
        deadline, restarts.
        """
        with self._changed:
            return dict(self.counters) | {"queue_seconds": self.queue_seconds}

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of the caller's own, next to the pool's."""
        with self._changed:
            self.counters[name] += amount

    def close(self) -> None:
        """End the server and with it every worker; batches still running elsewhere fail."""
        with self._changed:
            self._closed = True
            idle, self._idle = list(self._idle), deque()
            self._changed.notify_all()
        for worker in idle:
            worker.channel.close()
        with self._server_lock:
            self._stop_server()

    # one batch

    def _cached(self, unique: dict[str, Any]) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        with self._changed:
            for key in unique:
                digest = _digest(key)
                if digest in self._cache:
                    self._cache.move_to_end(digest)
                    found[key] = Outcome("ok", self._cache[digest], cached=True)
            self.counters["cache_hits"] += len(found)
        return found

    def _run(self, batch: _Batch) -> None:
        with selectors.DefaultSelector() as selector:
            while batch.waiting or batch.running:
                now = time.monotonic()
                if now >= batch.deadline:
                    self._give_up(batch, selector)
                    return
                self._dispatch(batch, selector)
                for event, _ in selector.select(self._patience(batch)):
                    self._read(batch, event.data, selector)
                self._stop_overdue(batch, selector)

    def _patience(self, batch: _Batch) -> float:
        """Until the next deadline; short while items wait for workers that other threads hold."""
        limits = [limit for _, _, limit in batch.running.values()] + [batch.deadline]
        wait = max(0.0, min(limits) - time.monotonic())
        return min(wait, 0.02 if batch.waiting else 1.0)

    def _dispatch(self, batch: _Batch, selector: selectors.BaseSelector) -> None:
        while batch.waiting and (worker := self._acquire(block=not batch.running)):
            key = batch.waiting.popleft()
            try:
                worker.channel.settimeout(batch.timeout_s)
                send_message(worker.channel, batch.items[key])
                worker.channel.setblocking(False)
            except OSError:  # it died idle; the item has not been tried yet
                self._discard(worker)
                batch.waiting.appendleft(key)
                continue
            now = time.monotonic()
            batch.running[worker] = (key, now, now + batch.timeout_s)
            selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _read(self, batch: _Batch, worker: _Worker, selector: selectors.BaseSelector) -> None:
        try:
            data = worker.channel.recv(1 << 16)
            worker.buffer += data
            message = take_message(worker.buffer)
        except (OSError, EOFError, ValueError):
            data, message = b"", None
        if message is None:
            if data:
                return
            if worker.server.poll() is None:
                self._finish(batch, worker, selector, Outcome("crash", detail="the worker died"))
            else:
                self._try_again(batch, worker, selector)
            return
        status = "error" if "error" in message else "ok"
        outcome = Outcome(
            status, message.get("value"), message.get("error", ""), message["seconds"]
        )
        self._finish(batch, worker, selector, outcome, keep=not message.get("recycle"))

    def _finish(
        self,
        batch: _Batch,
        worker: _Worker,
        selector: selectors.BaseSelector,
        outcome: Outcome,
        *,
        keep: bool = False,
    ) -> None:
        key, started, _ = batch.running.pop(worker)
        selector.unregister(worker.channel)
        outcome = replace(outcome, queue_seconds=started - batch.started)
        batch.done[key] = outcome
        with self._changed:
            self.counters[outcome.status] += 1
            self.queue_seconds += outcome.queue_seconds
            if outcome.status == "ok":
                self._cache[_digest(key)] = outcome.value
                if len(self._cache) > self.cache_size:
                    self._cache.popitem(last=False)
        worker.served += 1
        if keep and worker.served < self.recycle_after:
            self._release(worker)
        else:
            self._discard(worker)

    def _try_again(self, batch: _Batch, worker: _Worker, selector: selectors.BaseSelector) -> None:
        """The worker died with its server, which is no fault of the item."""
        key, _, _ = batch.running.pop(worker)
        selector.unregister(worker.channel)
        self._discard(worker)
        batch.waiting.append(key)

    def _stop_overdue(self, batch: _Batch, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for worker, (_, started, limit) in list(batch.running.items()):
            if now >= limit:
                self._finish(batch, worker, selector, Outcome("timeout", seconds=now - started))

    def _give_up(self, batch: _Batch, selector: selectors.BaseSelector) -> None:
        """The batch's time is over: end what runs, and mark what never ran."""
        for worker in list(batch.running):
            self._finish(batch, worker, selector, Outcome("deadline"))
        for key in batch.waiting:
            batch.done[key] = Outcome("deadline", queue_seconds=time.monotonic() - batch.started)
        with self._changed:
            self.counters["deadline"] += len(batch.waiting)
        batch.waiting.clear()

    # workers

    def _acquire(self, *, block: bool) -> _Worker | None:
        """An idle worker, or a new one while there are fewer than allowed. Blocks briefly if asked
        to, then None.
        """
        with self._changed:
            if self._closed:
                raise PoolError("the pool was closed")
            if not self._idle and self._alive >= self.workers and block:
                self._changed.wait(0.02)
            if self._idle:
                return self._idle.pop()
            if self._alive >= self.workers:
                return None
            self._alive += 1
        try:
            return self._start_worker()
        except BaseException:
            with self._changed:
                self._alive -= 1
            raise

    def _release(self, worker: _Worker) -> None:
        with self._changed:
            if not self._closed:
                self._idle.append(worker)
                self._changed.notify()
                return
        worker.channel.close()

    def _discard(self, worker: _Worker) -> None:
        """Kill the worker's group and make room for another."""
        worker.channel.close()
        with self._server_lock:
            if self._control is not None:
                try:
                    self._control.sendall(str(worker.pid).encode())
                except OSError:
                    self._stop_server()
        with self._changed:
            self._alive -= 1
            self.counters["restarts"] += 1
            self._changed.notify()

    def _start_worker(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with self._server_lock, theirs:
            try:
                control, server = self._running_server()
                socket.send_fds(control, [b"fork"], [theirs.fileno()])
                return _Worker(int(_packet(control)), ours, server)
            except (OSError, EOFError) as error:
                self._stop_server()
                ours.close()
                raise PoolError(f"the worker server for {self.target} ended") from error

    def _running_server(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        if self._closed:
            raise PoolError("the pool was closed")
        if self._control is not None and self._server is not None and self._server.poll() is None:
            return self._control, self._server
        self._stop_server()
        return self._start_server()

    def _start_server(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable,
            "-I",
            "-c",
            _BOOT,
            str(theirs.fileno()),
            self.target,
            str(self.memory_mb),
        ]
        with theirs:
            server = subprocess.Popen(
                [*command, json.dumps(sys.path)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control, self._server = ours, server
        ours.settimeout(START_TIMEOUT_S)
        _packet(ours)
        return ours, server

    def _stop_server(self) -> None:
        """Close the control socket, on which the server exits and takes its workers with it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            if os.getpid() == self._owner:
                self._server.kill()
                self._server.wait()
            self._server = None
