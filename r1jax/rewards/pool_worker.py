"""The far side of `pool`: a fork-server that has the target imported, and the workers that it
forks.

The server is started by executing a new interpreter, has one thread and nothing of the trainer's in
it, so forking it is safe and a replacement worker is warm within milliseconds. It owns its
children's pids: nobody else reaps them, so a pid that the pool asks it to kill can never have been
reused. Everything ends with the pool's process: the server sees its socket close, and the workers
are killed when the server dies.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

MAX_MESSAGE = 8 << 20
MAX_REPLY = 1 << 20
_LENGTH = struct.Struct("!I")
_PR_SET_PDEATHSIG = 1


def send_message(channel: socket.socket, message: Any) -> None:
    data = json.dumps(message).encode()
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive_message(channel: socket.socket) -> Any:
    """The next message; EOFError when the other side is gone."""
    (size,) = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))
    if size > MAX_MESSAGE:
        raise EOFError("oversized message")
    return json.loads(_receive_exactly(channel, size))


def take_message(buffer: bytearray) -> Any | None:
    """The first complete message of a buffer, removed from it; None while it is incomplete."""
    if len(buffer) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack_from(buffer)
    if size > MAX_MESSAGE:
        raise EOFError("oversized message")
    if len(buffer) < _LENGTH.size + size:
        return None
    message = json.loads(bytes(buffer[_LENGTH.size : _LENGTH.size + size]))
    del buffer[: _LENGTH.size + size]
    return message


def _receive_exactly(channel: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = channel.recv(min(size - len(parts), 1 << 16))
        if not part:
            raise EOFError("closed")
        parts += part
    return bytes(parts)


def load_target(target: str) -> Callable[[Any], Any]:
    """module:function"""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def serve(control_fd: int, target: str, memory_mb: int) -> None:
    """Fork a worker for every socket that arrives, and end workers on request."""
    function = load_target(target)
    control = socket.socket(fileno=control_fd)
    libc = ctypes.CDLL(None, use_errno=True)
    control.send(b"ready")
    children: set[int] = set()
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(control, 64, 1)
        except ConnectionError:
            data, fds = b"", []
        if not data:
            os._exit(0)
        if not fds:
            _end_worker(int(data), children)
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            _become_worker(fds[0], function, memory_mb, libc)
        os.close(fds[0])
        children.add(pid)
        control.send(str(pid).encode())


def _end_worker(pid: int, children: set[int]) -> None:
    """Kill one of our own; a pid from before a restart of this server may be anybody's by now."""
    if pid not in children:
        return
    children.discard(pid)
    for kill in (os.killpg, os.kill):  # the group may not exist yet when a worker is very young
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.waitpid(pid, 0)


def _become_worker(fd: int, function: Callable[[Any], Any], memory_mb: int, libc: Any) -> None:
    """Answer one item at a time until the socket closes. Never returns."""
    status = 1
    try:
        os.setsid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _limit(memory_mb)
        os.nice(10)
        channel = socket.socket(fileno=fd)
        while True:
            item = receive_message(channel)
            send_message(channel, _answer(function, item))
    except (EOFError, OSError):
        status = 0
    finally:
        os._exit(status)


def _limit(memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _answer(function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        reply: dict[str, Any] = {"value": function(item)}
        if len(json.dumps(reply)) > MAX_REPLY:
            reply = {"error": "reply too large"}
    except MemoryError:
        reply = {"error": "memory", "recycle": True}
    except Exception as error:  # noqa: BLE001 - the item's fault is reported, and must not end the worker
        reply = {"error": f"{type(error).__name__}: {error}"[:500]}
    return reply | {"seconds": time.perf_counter() - start}


def main() -> None:
    """Run by the pool as: python -I -c … FD TARGET MEMORY_MB"""
    fd, target, memory_mb = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(fd, target, memory_mb)
