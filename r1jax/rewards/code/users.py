"""Spare user ids: when the trainer is root, programs run as someone who owns nothing."""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence

# Given to nobody: systemd's table of uid ranges leaves this one unused.
_SPARE_UIDS = range(60578, 61184)


def is_root() -> bool:
    return os.geteuid() == 0


@contextlib.contextmanager
def spare_uid() -> Iterator[int | None]:
    """A uid that no other run on this machine holds; None when we are not root.

    RLIMIT_NPROC counts per uid and has no effect for root, and without a pid namespace the uid is
    what tells this program's processes from all others. The claim is an abstract socket name:
    machine-wide, no file, and gone with its owner however that ends.
    """
    if not is_root():
        yield None
        return
    start = os.getpid() % len(_SPARE_UIDS)
    for uid in (*_SPARE_UIDS[start:], *_SPARE_UIDS[:start]):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0r1jax-code-uid-{uid}")
        except OSError:
            claim.close()
            continue
        with claim:
            yield uid
        return
    raise OSError("all spare user ids are taken")


def command_as(uid: int | None, command: Sequence[str]) -> list[str]:
    """The command, preceded by the one that becomes this user with no other groups.

    `subprocess` could do that too, but then it forks, and to fork a trainer of many gigabytes takes
    long; without it, it uses vfork.
    """
    if uid is None:
        return list(command)
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *command]
