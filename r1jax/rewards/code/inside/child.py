"""One forked child = one test case: confine it, then run the program in it. Never returns."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable
from json import dumps, loads
from typing import IO

from r1jax.rewards.code.inside import confine, prelude, values

# Kept here so that a program which replaces them in `os` only harms itself.
_exit, _read, _write = os._exit, os.read, os.write

REQUEST_FD, RESULT_FD = 3, 4


def run(header: dict, blobs: dict[str, bytes], fds: dict[str, int], box: dict) -> None:
    """Confine this process and run the case of `header`; `fds` are its only open files."""
    try:
        _arrange_files(fds)
        os.chdir(box["directory"])
        confine.set_limits(**header["limits"])
        confine.lock_down(box["ruleset"], namespaced=box["namespaced"], filtered=box["filtered"])
    except BaseException as error:  # noqa: BLE001 - reported, and the process ends
        _write(fds["setup"], repr(error).encode("utf-8", "replace")[:1000])
        _exit(1)
    os.closerange(RESULT_FD + 1, 1 << 16)
    os.environ.clear()
    os.environ.update(header["environ"])
    if header["kind"] == "exec":
        _execute(header["argv"])
    _open_streams()
    source = blobs["program"].decode("utf-8", "surrogateescape")
    if header["kind"] == "script":
        os.close(REQUEST_FD)
        os.close(RESULT_FD)
        _exit(_exit_code_of(lambda: _load(source, "__main__")))
    _exit(_exit_code_of(lambda: _answer(source)))


def _arrange_files(fds: dict[str, int]) -> None:
    """0, 1, 2 and the two channels at fixed numbers; the inherited ones close later."""
    order = (fds["stdin"], fds["stdout"], fds["stderr"], fds["request"], fds["result"])
    high = [os.dup(fd) for fd in order]  # first out of the way of the numbers to be filled
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=target <= 2)


def _execute(argv: list[str]) -> None:
    signal.signal(
        signal.SIGPIPE, signal.SIG_DFL
    )  # Python ignores it; other programs do not expect so
    try:
        os.execve(argv[0], argv, dict(os.environ))
    except OSError as error:
        _write(2, f"exec failed: {error.strerror}\n".encode())
        _exit(127)


def _open_streams() -> None:
    """Fresh objects over 0, 1, 2: the supervisor's own have buffers and other modes."""

    def text(fd: int, mode: str, errors: str) -> IO[str]:
        return open(fd, mode, encoding="utf-8", errors=errors, closefd=False)

    sys.stdin = sys.__stdin__ = text(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = text(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = text(2, "w", "backslashreplace")
    sys.argv = ["main.py"]
    # The interpreter runs without `site`, which is where these come from.
    builtins.exit = builtins.quit = sys.exit


def _load(source: str, name: str) -> dict:
    module = types.ModuleType(name)
    module.__file__ = "main.py"
    sys.modules["__main__"] = sys.modules[name] = module
    if name != "__main__":
        module.__dict__.update(prelude.names_for(source))
    exec(compile(source, "main.py", "exec"), module.__dict__)
    return module.__dict__


def _answer(source: str) -> None:
    """Run the steps of the request and report their values under the nonce."""
    namespace = _load(source, "solution")
    # Read only now: what the program does while it loads cannot know the nonce.
    with open(REQUEST_FD, "rb") as file:
        request = loads(file.read())
    results = [_step(step, namespace) for step in request["steps"]]
    payload = request["nonce"] + "\n" + "\n".join(r for r in results if r is not None)
    data = payload.encode("ascii")
    while data:
        data = data[_write(RESULT_FD, data) :]
    _exit(0)  # before any atexit handler of the program


def _step(step: dict, namespace: dict) -> str | None:
    if "execute" in step:
        exec(compile(step["execute"], "test.py", "exec"), namespace)
        return None
    if "truth" in step:
        value: object = bool(eval(compile(step["truth"], "test.py", "eval"), namespace))
    elif "value" in step:
        value = eval(compile(step["value"], "test.py", "eval"), namespace)
    else:
        value = _find(step["function"], namespace)(*step["arguments"])
    try:
        return values.encode(value)
    except values.NotPlain as error:
        return dumps(["refused", str(error)[:200]])


def _find(name: str, namespace: dict) -> Callable[..., object]:
    """A global function, or the method of a LeetCode `Solution` class."""
    head, *rest = name.split(".")
    if head not in namespace and "Solution" in namespace:
        return getattr(namespace["Solution"](), head)
    found = namespace[head]
    for part in rest:
        found = getattr(found() if isinstance(found, type) else found, part)
    return found


def _exit_code_of(body: Callable[[], object]) -> int:
    """Run `body` and what an interpreter does at its end; the status it would exit with."""
    code = 0
    try:
        body()
    except SystemExit as error:
        code = _status(error.code)
    except BaseException:  # noqa: BLE001 - this is the program's top level
        code = 1
        traceback.print_exc(limit=-8)
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the same
        code = code or 120  # what the interpreter uses when the last flush fails
    return code


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(str(code) + "\n")
    return 1
