"""One sandbox: a fresh process behind walls, to which we send test cases one at a time.

The trainer is never forked: it holds JAX and threads. A bare interpreter is started by `subprocess`
(vfork and exec), builds the walls of its level around itself, and forks one child per case.
"""

import contextlib
import dataclasses
import os
import random
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from r1jax.rewards.code import interpreter, users
from r1jax.rewards.code.inside import frames

LEVELS = {
    3: "bubblewrap, Landlock, seccomp, rlimits",
    2: "user, network, pid and mount namespaces, Landlock, seccomp, rlimits",
    1: "Landlock, seccomp, rlimits, a spare uid when root",
    0: "rlimits only",
}

# What a Python or C++ program may read. No home, no /etc but the loader's cache, no /sys, no /run.
_SYSTEM = "/usr /bin /sbin /lib /lib32 /lib64 /libx32 /etc/ld.so.cache /etc/alternatives /nix/store"
_DEVICES = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
_START_S = 20.0
_GRACE_S = 20.0  # what the supervisor may take to clean up after the program, on a busy disk
_END_S = 5.0
_MOST_STRETCH = 4.0  # as `inside.supervise` has it, which this process does not load
_TRIES = 3
_PAUSE_S = 0.1
_TMPFS_MB_LEAST = 64
_MESSAGES_CAP = 1 << 20


class SandboxError(Exception):
    """The machine failed, not the program."""


class SandboxKilled(SandboxError):
    """The sandbox died while a program ran in it: the program's doing."""


@dataclasses.dataclass(frozen=True)
class Limits:
    # Of each case: wall clock, without what it waited for a processor (`_MOST_STRETCH`)
    time_s: float = 4.0
    memory_mb: int = 512
    output_kb: int = 1024
    fsize_mb: int = 16
    nproc: int = 64


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one case ended, before any comparison."""

    end: str  # exit | timeout | output | memory
    code: int  # exit status, or minus the signal
    stdout: bytes
    stderr: bytes
    result: bytes  # what came through the private channel
    wall_s: float
    cpu_s: float
    peak_mb: float
    fetched: bytes = b""


@dataclasses.dataclass(frozen=True)
class Case:
    """What to run: `script` and `answer` hold a Python program, `exec` a command line."""

    kind: str  # script | answer | exec
    program: bytes = b""
    stdin: bytes = b""
    request: bytes = b""  # for `answer`: nonce and steps
    argv: tuple[str, ...] = ()
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    fetch: str | None = None  # a file to bring back
    environ: dict[str, str] = dataclasses.field(default_factory=dict)


class Sandbox:
    """A context manager; starts when it is first needed. Not for several threads at once.

    One sandbox may serve many cases, and programs too: each case has its own process, all processes
    are killed and all files removed after it, and what cannot be cleaned is thrown away.
    """

    def __init__(self, level: int, *, fsize_mb: int = 16):
        self._level = level
        self._tmpfs_mb = max(_TMPFS_MB_LEAST, 2 * fsize_mb)
        self._process: subprocess.Popen[bytes] | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, case: Case, limits: Limits) -> Outcome:
        """Run one case. SandboxKilled: by the program; SandboxError: the machine failed."""
        if self._process is None:
            self._open()
        try:
            self._send(_make_message(case, limits))
            reply, outputs = frames.read_reply(
                self._reader(_MOST_STRETCH * limits.time_s + _GRACE_S)
            )
        except (frames.Closed, BrokenPipeError):
            self.close()
            raise SandboxKilled("the sandbox was killed from within") from None
        except TimeoutError:
            self.close()
            raise SandboxKilled("the sandbox stopped answering") from None
        if not reply["clean"]:
            self.close()
        if outputs["setup"]:
            reason = outputs["setup"].decode("utf-8", "replace")
            raise SandboxError(f"a case could not be confined: {reason}")
        return Outcome(
            end=reply["end"],
            code=reply["code"],
            stdout=outputs["stdout"],
            stderr=outputs["stderr"],
            result=outputs["result"],
            wall_s=reply["wall_s"],
            cpu_s=reply["cpu_s"],
            peak_mb=reply["peak_mb"],
            fetched=outputs["fetched"],
        )

    def close(self) -> None:
        """End it; when this returns, its processes and files are gone."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        self._exit.close()

    def _open(self) -> None:
        """Start, with another try after a random pause: a machine short of memory may recover."""
        for attempt in range(_TRIES):
            try:
                return self._start()
            except BaseException as error:
                self.close()
                if attempt == _TRIES - 1 or not isinstance(error, SandboxError):
                    raise
            time.sleep(_PAUSE_S * (attempt + 1) * random.uniform(0.5, 1.5))

    def _start(self) -> None:
        python = interpreter.find()
        if python is None:
            raise SandboxError("no python3 in /usr/bin, and ours cannot be read by the spare user")
        try:
            uid = self._exit.enter_context(users.spare_uid())
            box = None if self._level >= 2 else self._exit.enter_context(_host_directory(uid))
            command = python.command
            if self._level == 3:
                command = [*_bubblewrap(_readable(python), self._tmpfs_mb), *command]
            self._process = subprocess.Popen(
                users.command_as(uid, command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=interpreter.ENVIRON,
                cwd="/",
                start_new_session=True,
            )
            os.set_blocking(self._stdout, False)
            frames.write_all(self._stdin, python.boot_message)
            self._send(_make_setup(self._level, python, self._tmpfs_mb, box, uid))
            answer = frames.read_text(self._reader(_START_S))
        except (OSError, frames.Closed, TimeoutError) as error:
            raise SandboxError(f"could not start: {error or type(error).__name__}") from error
        if answer != "ready":
            raise SandboxError(f"could not start: {answer}")

    @property
    def _stdin(self) -> int:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    @property
    def _stdout(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def _send(self, message: dict[str, Any]) -> None:
        frames.write_all(self._stdin, frames.encode(message))

    def _reader(self, timeout_s: float) -> Callable[[int], bytes]:
        return _make_reader(self._stdout, time.monotonic() + timeout_s)


def _make_reader(fd: int, deadline: float) -> Callable[[int], bytes]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)

    def receive(size: int) -> bytes:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            if poll.poll(left * 1000):
                return os.read(fd, size)

    return receive


def _end(process: subprocess.Popen[bytes]) -> None:
    """Orderly first: at the end of its input the supervisor kills and reaps all that it holds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    # Not `wait(timeout=…)`, which sleeps in growing steps: the end of its output says it at once.
    poll = select.poll()
    poll.register(process.stdout, 0)
    if not poll.poll(_END_S * 1000):
        process.kill()
    process.wait()
    process.stdout.close()


@contextlib.contextmanager
def _host_directory(uid: int | None) -> Iterator[str]:
    """Without a mount namespace the program's files lie in a directory of the host, for a while."""
    path = tempfile.mkdtemp(prefix="r1jax-code-")
    try:
        if uid is not None:
            os.chown(path, uid, uid)
        yield path
    finally:
        try:
            os.rmdir(path)  # the supervisor has emptied it
        except OSError:  # it could not: nested too deeply for Python, or made unreadable
            for command in (["chmod", "-R", "u+rwx", "--", path], ["rm", "-rf", "--", path]):
                subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


def _readable(python: interpreter.Interpreter) -> list[str]:
    paths = [*_SYSTEM.split(), python.prefix]
    return [path for path in dict.fromkeys(paths) if os.path.lexists(path)]


def _make_setup(
    level: int, python: interpreter.Interpreter, tmpfs_mb: int, box: str | None, uid: int | None
) -> dict[str, Any]:
    """The message that tells the supervisor which walls to build."""
    return {
        "unshare": level == 2,
        "namespaced": level >= 2,
        "landlock": level >= 1,
        "filtered": level >= 1,
        "readable": _readable(python),
        "devices": _DEVICES,
        "writable": ["/tmp", "/dev/shm"] if box is None else [box],
        "tmpfs_mb": tmpfs_mb,
        "own_uid": uid is not None,
    }


def _bubblewrap(readable: list[str], tmpfs_mb: int) -> list[str]:
    """The command that puts the supervisor, as process 1, into bubblewrap's namespaces."""
    arguments = ["bwrap", "--unshare-all", "--die-with-parent", "--as-pid-1", "--clearenv"]
    for name, value in interpreter.ENVIRON.items():
        arguments += ["--setenv", name, value]
    for path in readable:
        if os.path.islink(path) and os.path.dirname(path) == "/":
            arguments += ["--symlink", os.readlink(path), path]
        else:
            arguments += ["--ro-bind", os.path.realpath(path), path]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/tmp", "/dev/shm"):
        arguments += ["--size", str(tmpfs_mb << 20), "--tmpfs", path]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"]


def _make_message(case: Case, limits: Limits) -> dict[str, Any]:
    return {
        "kind": case.kind,
        "program": case.program,
        "stdin": case.stdin,
        "request": case.request,
        "argv": list(case.argv),
        "files": case.files,
        "environ": {**interpreter.ENVIRON, **case.environ},
        "fetch": case.fetch,
        "limits": {
            "time_s": limits.time_s,
            "memory_mb": limits.memory_mb,
            "fsize_mb": limits.fsize_mb,
            "nproc": limits.nproc,
        },
        "caps": {
            "stdout": limits.output_kb << 10,
            "stderr": limits.output_kb << 10,
            "result": _MESSAGES_CAP,
            "setup": _MESSAGES_CAP,
        },
    }
