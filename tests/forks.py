"""`r1jax` commands in processes that need not import it: forked from one that has.

    python forks.py  < socket

A forked process goes on as `python -m r1jax ARGUMENTS` does once everything is imported, and is
killed, waited for and read as any other. The process it comes from has used no device and started
no thread of jax's. What all forks have in common, and processes begun anew do not (the seed of
hashes, of generators that nobody seeds), is why a test of two runs takes one of each.
"""

import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from typing import IO

_PIPE_BYTES = 1 << 20  # what a process may say on stderr before somebody reads it
_LAST_WORDS_S = 10.0  # so long after a process its own may still speak for it


class Fork:
    """A process that was forked for a command; what tests use of `subprocess.Popen`."""

    def __init__(self, told: socket.socket, out: IO[bytes], err: int) -> None:
        """`err`: where what it says on stderr is read, a pipe."""
        self._told, self._out, self._err = told, out, err
        self.returncode: int | None = None
        self.pid = self._hear()

    def _hear(self) -> int:
        heard = self._told.recv(32)
        if not heard:
            raise RuntimeError("the process that forks is gone: see what it says on stderr")
        return int(heard)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = self._hear()
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from error
            self._told.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def said(self) -> str:
        """On stdout, until now."""
        return _all_of(self._out)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        with self._out:
            return _all_of(self._out), _until_end(self._err)


def _all_of(file: IO[bytes]) -> str:
    """Without moving the place where the process writes."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


def _until_end(pipe: int) -> str:
    """Closed by all who write: `r1jax.last_words` ends after the process that it speaks for."""
    said, deadline = b"", time.monotonic() + _LAST_WORDS_S
    while select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
        part = os.read(pipe, 1 << 16)
        if not part:
            break
        said += part
    os.close(pipe)
    return said.decode()


class ForkServer:
    """The process that the others come from, in the environment `env`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__], env=env, stdin=theirs.fileno()
            )

    def start(self, arguments: list[str]) -> Fork:
        out = tempfile.TemporaryFile()  # noqa: SIM115  # Fork closes it
        err, says = os.pipe()
        fcntl.fcntl(says, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        told, tells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with tells:
            files = [out.fileno(), says, tells.fileno()]
            socket.send_fds(self._requests, [json.dumps(arguments).encode()], files)
        os.close(says)
        return Fork(told, out, err)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


def serve() -> list[str]:
    """Forks a process for each request. Returns in these only: the arguments of the command."""
    requests = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the tests: they close the socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits here
    while True:
        request, files, _, _ = socket.recv_fds(requests, 1 << 16, 3)
        if not request:
            sys.exit()
        if os.fork() == 0:
            requests.close()
            _become_command(*files)
            return json.loads(request)
        for file in files:
            os.close(file)


def _become_command(out: int, err: int, tells: int) -> None:
    """Returns in a child of this process, which itself tells how that one ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        with socket.socket(fileno=tells) as told:
            told.send(str(pid).encode())
            told.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, place in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(file, place)
    for file in (nothing, out, err, tells):
        os.close(file)


def _import_everything() -> None:
    for name in ("train", "evaluate", "sample"):
        importlib.import_module(f"r1jax.cli.{name}")
    from jax._src import xla_bridge  # no public name tells

    if xla_bridge.backends_are_initialized():
        raise RuntimeError("importing r1jax takes the devices: no process can be forked from it")
    gc.freeze()  # what is there for ever is not looked through again


if __name__ == "__main__":
    # OpenBLAS has threads, and handlers of its own that make forks safe.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    sys.path[0] = os.getcwd()
    _import_everything()
    sys.argv[1:] = serve()
    runpy.run_module("r1jax", run_name="__main__", alter_sys=True)
