"""Memory in pages of 2 MB, where the kernel has them for whoever asks.

XLA takes hundreds of megabytes for a program that it runs on a CPU and gives them back behind it.
In pages of 4 KB the kernel makes them one by one each time: 4 to 15 % of an update (docs/LOG.md).
"""

import os
import pathlib
import sys

TUNABLES = "GLIBC_TUNABLES"
ASKING = "glibc.malloc.hugetlb=1"
KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask() -> None:
    """Have glibc ask for them, which it does only from a process's beginning: begin it again.

    Nothing happens where the kernel gives them to everybody or to nobody, or where `GLIBC_TUNABLES`
    says something already. To be called before anything else is done.
    """
    if os.environ.get(TUNABLES) == ASKING:
        del os.environ[TUNABLES]  # the second beginning; processes started from here are small
    elif TUNABLES not in os.environ and _waits_to_be_asked() and sys.executable:
        asking = {**os.environ, TUNABLES: ASKING}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], asking)


def _waits_to_be_asked() -> bool:
    try:
        return "[madvise]" in KERNEL.read_text()
    except OSError:  # another system, or one that does not show it
        return False
