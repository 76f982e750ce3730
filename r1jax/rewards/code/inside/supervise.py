"""The first process of the sandbox: forks one child per case, watches it, and cleans up after it.

It speaks `frames` with the trainer's side on fds 0 and 1. It never learns an expected output.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import time

from r1jax.rewards.code.inside import (
    child,
    confine,
    frames,
    landlock,
    linux,
    namespaces,
    seccomp,
)

_TICK_MS = 10
_EXIT_TICK_S = 0.0002
_LIMITS_TICK_S = 0.05
_CHILDREN = "/proc/thread-self/children"
# A program that keeps a busy host waiting for itself gains no more than this.
_MOST_STRETCH = 4.0
_MANY_ENTRIES = 10_000
_PIPE_MAX = 1 << 20  # what an unprivileged process can make a pipe hold


def main() -> None:
    """Read the set-up message, build the walls, then serve cases until the pipe closes."""
    # Fill the numbers that the child gives to its own files, so that none of ours lies there.
    while os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) < 9:
        pass
    linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
    try:
        box = _enter(frames.read(_receive))
    except OSError as error:
        frames.write_text(1, str(error))
        return
    frames.write_text(1, "ready")
    gc.freeze()  # a child's collector then neither visits nor copies what it shares with us
    while True:
        try:
            case = frames.read(_receive)
        except frames.Closed:
            os._exit(0)  # an orderly end of the interpreter would only take time
        frames.write_reply(1, *run_case(case, box))


def _receive(size: int) -> bytes:
    return os.read(0, size)


def _enter(setup: dict) -> dict:
    """Build the walls that all cases share. May fork: the parent then only waits."""
    if not (setup["namespaced"] or setup["own_uid"] or os.path.exists(_CHILDREN)):
        raise OSError(f"the kernel has no {_CHILDREN}, which finds a program's processes")
    if setup["unshare"]:
        namespaces.enter()
        _continue_in_child()
        namespaces.make_root(setup["readable"], setup["tmpfs_mb"])
    ruleset = _make_ruleset(setup) if setup["landlock"] else None
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_DUMPABLE, 0)  # same uid as the program: no ptrace, no /proc/<us>/mem
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # what double-forks away comes back to us
    return {
        "ruleset": ruleset,
        "filter": seccomp.make_filter(None, shared_uid=False) if setup["namespaced"] else None,
        "directory": setup["writable"][0],
        "writable": setup["writable"],
        "namespaced": setup["namespaced"],
        "filtered": setup["filtered"],
        "own_uid": setup["own_uid"],
        "disk_mb": setup["tmpfs_mb"],
    }


def _make_ruleset(setup: dict) -> int | None:
    readable = setup["readable"] + setup["devices"]
    if not setup["namespaced"]:
        return landlock.make_ruleset(readable, setup["writable"])
    # Behind namespaces Landlock is a second wall, /proc is our own, and old kernels may do without.
    try:
        return landlock.make_ruleset([*readable, "/proc"], setup["writable"])
    except OSError:
        return None


def _continue_in_child() -> None:
    """Fork; the child, first in the new process tree, goes on, and the parent ends with it."""
    pid = os.fork()
    if pid == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
        return
    os.close(0)
    os.close(1)
    os.waitpid(pid, 0)
    os._exit(0)


def run_case(case: dict, box: dict) -> tuple[dict, dict[str, bytes]]:
    """Run one case to its end and leave neither process nor file of it behind."""
    _write_files(box["directory"], case["files"])
    if not box["namespaced"] and not box["own_uid"]:
        case["limits"]["nproc"] += confine.count_tasks(os.getuid())
    sources, reads = _open_channels(case)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        child.run(case, sources, box)
    for fd in sources.values():
        os.close(fd)
    watch = _Watch(pid, reads, case, box, started)
    end = watch.until_end()
    status, usage = _end_child(pid, watch, box)
    if not watch.drain() and end == "exit":
        end = "output"
    peak_mb = max(usage.ru_maxrss / 1024, watch.peak_mb)
    if end == "exit" and peak_mb > case["limits"]["memory_mb"]:
        end = "memory"  # it came and went between two looks
    outputs = {name: bytes(output) for name, output in watch.outputs.items()}
    outputs["fetched"] = _fetch(box["directory"], case["fetch"])
    reply = {
        "end": end,
        "code": os.waitstatus_to_exitcode(status),
        "wall_s": time.monotonic() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": peak_mb,
        "clean": _wipe(box["writable"]),
    }
    return reply, outputs


def _open_channels(case: dict) -> tuple[dict[str, int], dict[str, int]]:
    """The child's ends and ours. Input lies in memory files: an unread one blocks nobody."""
    sources = {name: _memory_file(name, case[name]) for name in ("stdin", "request")}
    reads = {}
    for name in ("stdout", "stderr", "result", "setup"):
        reads[name], sources[name] = os.pipe()
        os.set_blocking(reads[name], False)
    return sources, reads


def _memory_file(name: str, content: bytes) -> int:
    fd = os.memfd_create(name)
    frames.write_all(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class _Watch:
    """Collects the child's outputs and says when and why it is over."""

    def __init__(self, pid: int, reads: dict[str, int], case: dict, box: dict, started: float):
        self.pid = pid
        self.reads = reads
        self.caps = case["caps"]
        self.started, self.time_s = started, case["limits"]["time_s"]
        self.deadline = started + self.time_s
        self.memory_mb = case["limits"]["memory_mb"]
        # A tmpfs has its own limit; a directory of the host must be watched.
        self.disk = None if box["namespaced"] else (box["directory"], box["disk_mb"])
        self.peak_mb = 0.0
        self.outputs = {name: bytearray() for name in reads}
        self.open = {fd: name for name, fd in reads.items()}
        self.poll = select.poll()
        for fd in self.open:
            self.poll.register(fd, select.POLLIN)
        self.poll.register(0, 0)  # reports only that the trainer's side is gone

    def until_end(self) -> str:
        """'exit', or the limit that was broken: 'timeout', 'output', 'memory'; 'abandoned'."""
        next_limits = time.monotonic() + _LIMITS_TICK_S
        while True:
            now = time.monotonic()
            if now >= self.deadline and not self._gets_more_time(now):
                return "timeout"
            if now >= next_limits:
                next_limits = now + _LIMITS_TICK_S
                self.peak_mb = max(self.peak_mb, _resident_mb(self.pid))
                if self.peak_mb > self.memory_mb:
                    return "memory"
                if self.disk and _holds_more_than(*self.disk):
                    return "output"
            if not self.open:  # only the exit itself is left to wait for, and it is near
                time.sleep(_EXIT_TICK_S)
            for fd, _ in self.poll.poll(_TICK_MS if self.open else 0):
                if fd == 0:
                    return "abandoned"
                if not self._collect(fd):
                    return "output"
            if _has_ended(self.pid):
                return "exit"

    def _gets_more_time(self, now: float) -> bool:
        """What it waited for a processor is the host's time, not the program's."""
        allowed = min(self.time_s + _waited_s(self.pid), _MOST_STRETCH * self.time_s)
        self.deadline = self.started + allowed
        return now < self.deadline

    def _collect(self, fd: int) -> bool:
        """Take what is there; False when the cap is passed."""
        name = self.open[fd]
        try:
            part = os.read(fd, _PIPE_MAX)
        except BlockingIOError:
            return True
        if not part:
            self.poll.unregister(fd)
            del self.open[fd]
            return True
        output = self.outputs[name]
        output += part
        if len(output) <= self.caps[name]:
            return True
        del output[self.caps[name] :]
        return False

    def drain(self) -> bool:
        """Take what is still in the pipes, now that every writer is dead; False past a cap."""
        within = True
        for fd in list(self.open):
            within = self._collect(fd) and within
        for fd in self.reads.values():
            os.close(fd)
        return within


def _has_ended(pid: int) -> bool:
    """True once the child is a zombie; it is not reaped yet, so its pid stays ours."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_child(pid: int, watch: _Watch, box: dict) -> tuple[int, resource.struct_rusage]:
    """Kill the child and all that it started; its status and resources."""
    if not _has_ended(pid):
        os.kill(pid, linux.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    _kill_all(box)
    return status, usage


def _kill_all(box: dict) -> None:
    """linux.SIGKILL every process of the program until none is left, and reap them."""
    alone = box["namespaced"] or box["own_uid"]  # then all that we may signal belongs to the case
    while True:
        try:
            if alone:
                os.kill(-1, linux.SIGKILL)
            else:
                for pid in _descendants(os.getpid()):
                    os.kill(pid, linux.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _descendants(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as file:
                    queue += [int(word) for word in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the two looks
        found.append(parent)
    return found[1:]


def _waited_s(pid: int) -> float:
    """The longest that one of the child's processes was ready to run while others ran."""
    longest = 0
    for process in [pid, *_descendants(pid)]:
        try:
            with open(f"/proc/{process}/schedstat") as file:
                longest = max(longest, int(file.read().split()[1]))
        except (OSError, IndexError):
            continue  # it ended, or the kernel keeps no such account
    return longest / 1e9


def _resident_mb(pid: int) -> float:
    """Memory of the child and all its descendants together: RLIMIT_AS counts each alone."""
    total_kb = 0
    for process in [pid, *_descendants(pid)]:
        try:
            with open(f"/proc/{process}/status") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # File pages (the shared libraries) cost nothing more.
        total_kb += sum(int(x.split()[1]) for x in lines if x.startswith(("RssAnon:", "RssShmem:")))
    return total_kb / 1024


def _holds_more_than(directory: str, limit_mb: int) -> bool:
    """Does the directory hold more megabytes, or more entries, than anyone needs?"""
    left, entries, stack = limit_mb << 20, _MANY_ENTRIES, [directory]
    while stack and left >= 0 and entries >= 0:
        try:
            for entry in os.scandir(stack.pop()):
                entries -= 1
                left -= entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
        except OSError:
            continue  # removed meanwhile, or unreadable: then nothing was read from it either
    return left < 0 or entries < 0


def _write_files(directory: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o755)


def _fetch(directory: str, name: str | None) -> bytes:
    if name is None:
        return b""
    try:
        with open(os.path.join(directory, name), "rb") as file:
            return file.read()
    except OSError:
        return b""


def _remove_directory(path: str) -> None:
    if os.path.islink(path):
        os.unlink(path)
    else:
        os.rmdir(path)


def _wipe(directories: list[str]) -> bool:
    """Empty the writable directories; False if that failed: this sandbox must not serve again."""
    for directory in directories:
        try:
            os.chmod(directory, 0o700)
            for path, directories_in, files in os.walk(directory, topdown=False):
                for name in files:
                    os.unlink(os.path.join(path, name))
                for name in directories_in:
                    _remove_directory(os.path.join(path, name))
        except (OSError, RecursionError):
            return False
    return True
