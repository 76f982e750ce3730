"""One forked child = one test case: confine it, then run the program in it. Never returns."""

from __future__ import annotations

import builtins
import marshal
import os
import sys

from r1jax.rewards.code.inside import answering, confine, frames, linux, seccomp

# Kept here so that a program which replaces them in `os` only harms itself.
_exit, _write = os._exit, os.write

REQUEST_FD, RESULT_FD = 3, 4
_MANY_FILES = 1 << 10  # more than the supervisor ever has open


def run(case: dict, fds: dict[str, int], box: dict) -> None:
    """Confine this process and run the case in it; `fds` are its only open files.

    What the program raises, and the SystemExit after it, leaves through the supervisor's frames,
    which catch nothing of it, so that the interpreter ends as usual: threads joined, atexit
    handlers run, files flushed.
    """
    try:
        _arrange_files(fds)
        os.chdir(box["directory"])
        confine.set_limits(**case["limits"])
        # Without namespaces the filter knows our pid, and is made here.
        confine.lock_down(box["ruleset"], box["filter"] or _make_filter(box))
    except BaseException as error:  # noqa: BLE001 - reported, and the process ends
        _write(fds["setup"], repr(error).encode("utf-8", "replace")[:1000])
        _exit(1)
    os.closerange(RESULT_FD + 1, _MANY_FILES)
    os.environ.clear()
    os.environ.update(case["environ"], HOME=box["directory"], TMPDIR=box["directory"])
    if case["kind"] == "exec":
        _execute(case["argv"])
    _open_streams()
    source = case["program"].decode("utf-8", "surrogateescape")
    if case["kind"] == "script":
        os.close(REQUEST_FD)
        os.close(RESULT_FD)
        answering.load(source, "__main__")
        raise SystemExit(0)
    _answer(source)


def _make_filter(box: dict) -> bytes | None:
    if not box["filtered"]:
        return None
    return seccomp.make_filter(os.getpid(), shared_uid=not box["own_uid"])


def _arrange_files(fds: dict[str, int]) -> None:
    """0, 1, 2 and the two channels at fixed numbers; the inherited ones close later."""
    order = (fds["stdin"], fds["stdout"], fds["stderr"], fds["request"], fds["result"])
    high = [os.dup(fd) for fd in order]  # first out of the way of the numbers to be filled
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=target <= 2)


def _execute(argv: list[str]) -> None:
    linux.default_sigpipe()
    try:
        os.execve(argv[0], argv, dict(os.environ))
    except OSError as error:
        _write(2, f"exec failed: {error.strerror}\n".encode())
        _exit(127)


def _open_streams() -> None:
    """Fresh objects over 0, 1, 2: the supervisor's own have buffers and other modes."""
    escape = "surrogateescape"
    # ruff: noqa: SIM115 - they stay open
    sys.stdin = open(0, encoding="utf-8", errors=escape, closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors=escape, closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = ["main.py"]
    # The interpreter runs without `site`, which is where these come from.
    builtins.exit = builtins.quit = sys.exit


def _answer(source: str) -> None:
    """Run the steps of the request and report their values under its nonce."""
    # Not "__main__": a solution's `if __name__ == "__main__"` block would wait for input.
    namespace = answering.load(source, "solution")
    # Read only now: what the program does while it loads cannot know the nonce.
    with open(REQUEST_FD, "rb") as file:
        request = marshal.loads(file.read())
    frames.write_all(RESULT_FD, answering.answer(request, namespace))
    _exit(0)  # before any atexit handler of the program
