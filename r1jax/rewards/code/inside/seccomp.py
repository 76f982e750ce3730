"""A seccomp filter in classic BPF: no socket that reaches anyone, no way to change the walls.

It lists what is forbidden, not what is allowed: programs may use any library, and the first wall
is the namespace or Landlock. Forbidden calls fail with EPERM, so a program that catches OSError
goes on.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from r1jax.rewards.code.inside import linux

# The numbers on x86_64 and aarch64.
_NUMBERS = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "fcntl": (72, 25),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "listen": (50, 201),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "shmget": (29, 194),
    "socket": (41, 198),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# Calls with a rule of their own below; the rest of the table is always forbidden.
_CONDITIONAL = {
    "clone",
    "clone3",
    "fcntl",
    "ioctl",
    "kill",
    "prlimit64",
    "sendto",
    "socket",
    "tgkill",
}

_NAMESPACE_FLAGS = (
    0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
)
_LOCAL_FAMILIES = (1, 2, 10)  # unix, inet, inet6: may be made, cannot be bound or connected
_SET_OWNER_COMMANDS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals by way of a file
_TERMINAL_OR_OWNER_REQUESTS = (
    0x5412,
    0x541C,
    0x8901,
    0x8902,
)  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_SET_MODE_FILTER, _SECCOMP = 1, {"x86_64": 317, "aarch64": 277}


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def _fail(code: int) -> bytes:
    return _op(_RETURN, 0x00050000 | code)


_DENY = _fail(errno.EPERM)


def _rule(name: str, block: list[bytes]) -> list[bytes]:
    """`block` decides about this call and always returns; other calls jump over it."""
    number = _NUMBERS[name][0 if linux.MACHINE == "x86_64" else 1]
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


def make_filter(own_pid: int | None) -> bytes:
    """The program. With `own_pid`, signals and limits reach only that process or its group.

    Without a pid namespace a program with our uid could otherwise signal the trainer itself.
    """
    prologue = [
        _op(_LOAD, _ARCH_OFFSET),
        _op(_JUMP_EQUAL, _AUDIT_ARCH[linux.MACHINE], 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NUMBER_OFFSET),
    ]
    if linux.MACHINE == "x86_64":
        prologue += [_op(_JUMP_AT_LEAST, _X32_BIT, 0, 1), _op(_RETURN, _KILL_PROCESS)]
    rules = [_rule(name, [_DENY]) for name in sorted(_NUMBERS.keys() - _CONDITIONAL)]
    rules += [
        _rule("clone", _without_bits(0, _NAMESPACE_FLAGS)),
        # Its flags lie in memory, where a filter cannot look; libc falls back to clone.
        _rule("clone3", [_fail(errno.ENOSYS)]),
        _rule("fcntl", _none_of(1, _SET_OWNER_COMMANDS)),
        _rule("ioctl", _none_of(1, _TERMINAL_OR_OWNER_REQUESTS)),
        _rule("sendto", _only_null(4)),  # NULL: send() on a socket pair
        _rule("socket", _only(0, _LOCAL_FAMILIES)),
    ]
    if own_pid is not None:
        rules += [
            _rule("kill", _only(0, (own_pid, 0, -own_pid))),
            _rule("tgkill", _only(0, (own_pid,))),
            _rule("prlimit64", _only(0, (0, own_pid))),
        ]
    return b"".join([*prologue, *(op for rule in rules for op in rule), _op(_RETURN, _ALLOW)])


def install(program: bytes) -> None:
    """Put the filter on this process and its future children. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    mode, flags = ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(0)
    linux.syscall(_SECCOMP[linux.MACHINE], mode, flags, header)
