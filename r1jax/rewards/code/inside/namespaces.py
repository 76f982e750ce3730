"""A private root, process tree and network without bubblewrap: unshare, mount, pivot_root."""

from __future__ import annotations

import os

from r1jax.rewards.code.inside import linux

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_NOATIME, _MS_BIND, _MS_REC = 32, 1024, 4096, 16384
_MS_PRIVATE, _MS_RELATIME = 1 << 18, 1 << 21
_MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DEVICES = ("null", "zero", "full", "random", "urandom")


def enter() -> None:
    """Move to new namespaces; children of this process live in the new process tree."""
    uid, gid = os.getuid(), os.getgid()
    flags = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET
    linux.checked(linux.libc.unshare(flags | _CLONE_NEWIPC | _CLONE_NEWUTS), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open("/proc/self/" + name, "w") as file:
            file.write(text)


def make_root(readable: list[str], tmpfs_mb: int) -> None:
    """Replace the file system by `readable` (read-only), /dev, /proc and a small /tmp.

    Runs as the first process of the new tree, because a fresh /proc shows the tree of its mounter.
    """
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    # Mounted over /tmp only until pivot_root: any directory that exists would do.
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    os.chdir("/tmp")
    linux.syscall(_PIVOT_ROOT[linux.MACHINE], b".", b"old")
    os.chdir("/")
    for path in readable:
        _bind_read_only(path)
    _make_dev()
    size = f"size={tmpfs_mb}m,mode=1777"
    for path in ("/tmp", "/dev/shm"):
        os.mkdir(path)
        _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    os.mkdir("/proc")
    try:
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError:
        os.listdir("/proc")  # containers that mask parts of /proc forbid a new one: it stays empty
    linux.checked(linux.libc.umount2(b"/old", _MNT_DETACH), "umount2")
    os.rmdir("/old")
    _remount_read_only("/")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = (source.encode(), target.encode(), kind.encode() if kind else None)
    linux.checked(linux.libc.mount(*encoded, flags, data.encode()), "mount " + target)


def _remount_read_only(target: str) -> None:
    # In a user namespace the flags of the original mount are locked and must be named again.
    held = os.statvfs(target).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME)
    relatime = _MS_RELATIME if os.statvfs(target).f_flag & 4096 else 0  # ST_RELATIME
    flags = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | held | relatime
    _mount("none", target, None, flags)


def _bind_read_only(path: str) -> None:
    source = "/old" + path
    if os.path.islink(source):
        if os.path.dirname(path) == "/":  # /bin -> usr/bin
            os.symlink(os.readlink(source), path)
            return
        source = "/old" + os.path.realpath(source)[len("/old") :]
    if not os.path.exists(source):
        return
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    _mount(source, path, None, _MS_BIND | _MS_REC)
    _remount_read_only(path)


def _make_dev() -> None:
    os.mkdir("/dev")
    for name in _DEVICES:
        path = "/dev/" + name
        open(path, "w").close()
        _mount("/old" + path, path, None, _MS_BIND)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink("/proc/self/fd" + target, "/dev/" + name)
