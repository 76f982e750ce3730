"""A seccomp filter in classic BPF: no socket that reaches anyone, no way to change the walls.

It lists what is forbidden, not what is allowed: programs may use any library, and the first wall
is the namespace or Landlock. Forbidden calls fail with EPERM, so a program that catches OSError
goes on.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from r1jax.rewards.code.inside import linux, syscalls

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEW… NS, CGROUP, UTS, IPC, USER, PID, NET
_LOCAL_FAMILIES = (1, 2, 10)  # unix, inet, inet6: may be made, cannot be bound or connected
_SET_OWNER_COMMANDS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals by way of a file
# TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
_TERMINAL_OR_OWNER_REQUESTS = (0x5412, 0x541C, 0x8901, 0x8902)

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_SET_MODE_FILTER, _SECCOMP = 1, {"x86_64": 317, "aarch64": 277}


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def _fail(code: int) -> bytes:
    return _op(_RETURN, 0x00050000 | code)


_DENY = _fail(errno.EPERM)


def _rule(number: int, block: list[bytes]) -> list[bytes]:
    """`block` decides about this call and always returns; other calls jump over it."""
    return [_op(_JUMP_EQUAL, number, 0, len(block)), *block]


def _argument(index: int, high: bool = False) -> bytes:
    return _op(_LOAD, _ARGUMENTS_OFFSET + 8 * index + 4 * high)


def _only(index: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow the call when its argument is one of the values (32 bits, as for a pid)."""
    tests = [op for v in values for op in (_op(_JUMP_EQUAL, v, 0, 1), _op(_RETURN, _ALLOW))]
    return [_argument(index), *tests, _DENY]


def _none_of(index: int, values: tuple[int, ...]) -> list[bytes]:
    tests = [op for v in values for op in (_op(_JUMP_EQUAL, v, 0, 1), _DENY)]
    return [_argument(index), *tests, _op(_RETURN, _ALLOW)]


def _only_null(index: int) -> list[bytes]:
    """Allow the call when this pointer is NULL."""
    low = [_argument(index), _op(_JUMP_EQUAL, 0, 1, 0), _DENY]
    high = [_argument(index, high=True), _op(_JUMP_EQUAL, 0, 1, 0), _DENY]
    return [*low, *high, _op(_RETURN, _ALLOW)]


def _without_bits(index: int, mask: int) -> list[bytes]:
    return [_argument(index), _op(_JUMP_ANY_BIT, mask, 0, 1), _DENY, _op(_RETURN, _ALLOW)]


def make_filter(own_pid: int | None, *, shared_uid: bool) -> bytes:
    """The program. Give `own_pid` where there is no namespace: signals reach that process only.

    With a `shared_uid` besides, no file is changed by its path: the program could otherwise take
    away the permissions of the trainer's files.
    """
    forbidden = list(syscalls.numbers(syscalls.FORBIDDEN).values())
    if own_pid is not None and shared_uid:
        forbidden += syscalls.numbers(syscalls.ON_PATHS).values()
    rules = [_rule(number, [_DENY]) for number in forbidden]
    blocks = _conditions(own_pid)
    rules += [
        _rule(number, blocks[name])
        for name, number in syscalls.numbers(syscalls.CONDITIONAL).items()
        if name in blocks
    ]
    return b"".join([*_prologue(), *(op for rule in rules for op in rule), _op(_RETURN, _ALLOW)])


def _prologue() -> list[bytes]:
    """Kill on another calling convention, whose numbers mean other calls; load the number."""
    checks = [
        _op(_LOAD, _ARCH_OFFSET),
        _op(_JUMP_EQUAL, _AUDIT_ARCH[linux.MACHINE], 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NUMBER_OFFSET),
    ]
    if linux.MACHINE == "x86_64":
        checks += [_op(_JUMP_AT_LEAST, _X32_BIT, 0, 1), _op(_RETURN, _KILL_PROCESS)]
    return checks


def _conditions(own_pid: int | None) -> dict[str, list[bytes]]:
    blocks = {
        "clone": _without_bits(0, _NAMESPACE_FLAGS),
        # Its flags lie in memory, where a filter cannot look; libc falls back to clone.
        "clone3": [_fail(errno.ENOSYS)],
        "fcntl": _none_of(1, _SET_OWNER_COMMANDS),
        "ioctl": _none_of(1, _TERMINAL_OR_OWNER_REQUESTS),
        "sendto": _only_null(4),  # NULL: send() on a socket pair
        "socket": _only(0, _LOCAL_FAMILIES),
    }
    if own_pid is not None:
        blocks["kill"] = _only(0, (own_pid, 0, -own_pid))
        blocks["tgkill"] = _only(0, (own_pid,))
        blocks["prlimit64"] = _only(0, (0, own_pid))
    return blocks


def install(program: bytes) -> None:
    """Put the filter on this process and its future children. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    mode, flags = ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(0)
    linux.syscall(_SECCOMP[linux.MACHINE], mode, flags, header)
