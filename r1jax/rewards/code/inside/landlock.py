"""Landlock: the kernel's unprivileged file-system (and TCP, signal) sandbox, linux/landlock.h."""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from r1jax.rewards.code.inside import linux

# The numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
# File-system rights known to each ABI version; 13 at first, then refer, truncate, ioctl on devices.
_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_NEWEST = 16
_NET_BIND_AND_CONNECT = 0b11  # ABI 4
_SCOPE_ABSTRACT_SOCKET_AND_SIGNAL = 0b11  # ABI 6

READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def abi() -> int:
    """The kernel's Landlock version; OSError where there is none."""
    size, flags = ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)
    return linux.syscall(_CREATE_RULESET, None, size, flags)


def make_ruleset(readable: list[str], writable: list[str]) -> int:
    """A ruleset (file descriptor): these paths and all below may be read, or also written."""
    version = abi()
    handled = (1 << _RIGHTS_OF_ABI.get(version, _RIGHTS_NEWEST)) - 1
    attributes = struct.pack(
        "QQQ",
        handled,
        _NET_BIND_AND_CONNECT if version >= 4 else 0,
        _SCOPE_ABSTRACT_SOCKET_AND_SIGNAL if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = linux.syscall(
        _CREATE_RULESET, attributes[:size], ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    for path in readable:
        _allow(ruleset, path, READ & handled)
    for path in writable:
        _allow(ruleset, path, handled)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # a path that does not exist needs no rule
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _ON_FILES
        rule = struct.pack("=Qi", rights, parent)
        kind, flags = ctypes.c_int(_RULE_PATH_BENEATH), ctypes.c_uint32(0)
        linux.syscall(_ADD_RULE, ctypes.c_int(ruleset), kind, rule, flags)
    finally:
        os.close(parent)


def restrict_self(ruleset: int) -> None:
    """Enter the sandbox for good. Needs no_new_privs."""
    linux.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
