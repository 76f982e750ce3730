"""What the child gives up, for good, before the program's first line."""

from __future__ import annotations

import math
import os
import resource

from r1jax.rewards.code.inside import landlock, seccomp

_MB = 1 << 20
_STACK_MB = 64  # deep recursion in C++; grows only when it is used
_OPEN_FILES = 256
# Address space that is not memory: thread stacks, arenas of malloc, libraries. What is really in
# use the supervisor watches.
_HEADROOM_MB = 256


def set_limits(*, time_s: float, memory_mb: int, fsize_mb: int, nproc: int) -> None:
    # A second line behind the supervisor's clock, wide enough for two busy threads.
    cpu_s = math.ceil(2 * time_s) + 1
    address_space = (memory_mb + _HEADROOM_MB) * _MB
    for kind, soft, hard in (
        (resource.RLIMIT_AS, address_space, address_space),
        (resource.RLIMIT_STACK, _STACK_MB * _MB, _STACK_MB * _MB),
        (resource.RLIMIT_FSIZE, fsize_mb * _MB, fsize_mb * _MB),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_NPROC, nproc, nproc),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))


def count_tasks(uid: int) -> int:
    """Threads of this user now: RLIMIT_NPROC counts them all when the uid is not ours alone."""
    total = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat("/proc/" + name).st_uid == uid:
                total += os.stat(f"/proc/{name}/task").st_nlink - 2
        except FileNotFoundError:
            continue  # ended meanwhile
    return total


def lock_down(ruleset: int | None, program: bytes | None) -> None:
    """Landlock, then seccomp, which would forbid nothing that comes before it."""
    if ruleset is not None:
        landlock.restrict_self(ruleset)
    if program is not None:
        seccomp.install(program)
