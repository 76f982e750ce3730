"""The few system calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os
import struct

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

# The modules `signal` and `enum` would take milliseconds of each start.
SIGKILL, _SIGPIPE = 9, 13

MACHINE = os.uname().machine
_CAPSET = {"x86_64": 126, "aarch64": 91}
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """The result of a libc call, or OSError with its errno."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def prctl(option: int, value: int = 0) -> int:
    # Every argument is passed: some options insist that the unused ones are zero.
    unsigned = ctypes.c_ulong
    result = libc.prctl(option, unsigned(value), unsigned(0), unsigned(0), unsigned(0))
    return checked(result, f"prctl {option}")


def syscall(number: int, *arguments: object) -> int:
    return checked(libc.syscall(ctypes.c_long(number), *arguments), f"syscall {number}")


def default_sigpipe() -> None:
    """Python ignores SIGPIPE, which an exec would pass on; other programs do not expect that."""
    libc.signal(_SIGPIPE, None)


def drop_capabilities() -> None:
    """Empty all capability sets, those of a private user namespace included."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last capability of this kernel, or none held to begin with
    header = struct.pack("Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    syscall(_CAPSET[MACHINE], header, bytes(24))
