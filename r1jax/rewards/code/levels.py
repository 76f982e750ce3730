"""Which sandbox does this machine offer? Tried at first use, best first, and proved by a probe."""

import dataclasses
import functools
import logging
import os
import pathlib
import shutil
import socket
import tempfile

from r1jax.rewards.code import interpreter, users
from r1jax.rewards.code.sandbox import LEVELS, Case, Limits, Sandbox, SandboxError

_PROBE_LIMITS = Limits(time_s=15.0, memory_mb=256)

# Prints what it can do that it must not be able to do.
_PROBE = """
import socket, sys
path, port = input(), int(input())
reached = []
try:
    open(path).read()
    reached.append("a file of the host")
except OSError:
    pass
try:
    connection = socket.socket()
    connection.settimeout(1)
    connection.connect(("127.0.0.1", port))
    reached.append("the network")
except OSError:
    pass
print("reached", *reached, sep="|")
"""


@dataclasses.dataclass(frozen=True)
class SandboxInfo:
    """What a run records about its sandbox."""

    level: int
    walls: str
    interpreter: str
    separate_uid: bool
    refused: dict[int, str]  # higher levels and why this machine does not offer them


class Unsafe(SandboxError):
    """The machine offers no real sandbox and the caller did not accept that."""


_log = logging.getLogger(__name__)


@functools.cache
def failure_of(level: int) -> str | None:
    """Why this level cannot be used here; None when its probe held."""
    if level == 3 and shutil.which("bwrap", path=interpreter.ENVIRON["PATH"]) is None:
        return "bubblewrap is not installed"
    try:
        with Sandbox(level) as sandbox:
            failure = _probe(sandbox)
    except SandboxError as error:
        failure = str(error)
    _log.info("code sandbox level %d (%s): %s", level, LEVELS[level], failure or "works")
    return failure


def _probe(sandbox: Sandbox) -> str | None:
    with (
        tempfile.TemporaryDirectory(prefix="r1jax-probe-") as directory,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        secret = pathlib.Path(directory, "secret")
        secret.write_text("secret")
        os.chmod(directory, 0o755)
        port = server.getsockname()[1]
        case = Case("script", program=_PROBE.encode(), stdin=f"{secret}\n{port}\n".encode())
        outcome = sandbox.run(case, _PROBE_LIMITS)
    said = outcome.stdout.decode("utf-8", "replace").strip()
    if outcome.end != "exit" or outcome.code != 0 or not said.startswith("reached"):
        return f"the probe did not run: {outcome.end} {outcome.code}"
    return None if said == "reached" else f"the probe {said.replace('|', ' ')}"


def sandbox_info(level: int | None = None, *, allow_unsafe: bool = False) -> SandboxInfo:
    """The best level of this machine, or the asked one; `SandboxError` when there is none."""
    refused: dict[int, str] = {}
    for candidate in (3, 2, 1) if level is None else (level,):
        if candidate == 0:
            break
        failure = failure_of(candidate)
        if failure is None:
            return _describe(candidate, refused)
        refused[candidate] = failure
    if level:
        raise SandboxError(f"sandbox level {level} is not available: {refused[level]}")
    if not allow_unsafe:
        reasons = "; ".join(f"level {n}: {why}" for n, why in refused.items()) or "level 0 asked"
        raise Unsafe(f"no safe sandbox here ({reasons}); allow_unsafe=True runs programs without")
    return _describe(0, refused)


def _describe(level: int, refused: dict[int, str]) -> SandboxInfo:
    python = interpreter.find()
    return SandboxInfo(
        level=level,
        walls=LEVELS[level],
        interpreter=python.path if python else "",
        separate_uid=users.is_root(),
        refused=refused,
    )
