"""Passes a process's stderr on, and says in one line why jax has ended it.

When a process of a run is gone, XLA ends the others from a C++ thread, with a page of its own. No
handler in Python can run then, so this is a process of its own, with the standard library only:

    python -S -E -P last_words.py NAME  < what the process writes to stderr
"""

import os
import re
import select
import sys

# How XLA's lines about other processes begin: a letter, the date, the time, the thread, the file.
_XLA = re.compile(rb"^[IWEF]\d{4} [\d:.]+ +\d+ (coordination_|client\.h|service\.h)")
_ENDED = b"Terminating process because the JAX distributed service detected fatal errors"
_SILENT = re.compile(r"(?:unhealthy|stopped sending heartbeats)[^\n]*:\s*\n((?:[^\n]*\d+\s*\n)+)")
_QUIET_S = 5.0  # nothing fatal came behind a line of XLA: it was only a line


def say(text: str, who: str) -> str:
    """The one line for what XLA wrote at its end."""
    if "Failed to send RPC to coordination service" in text or "Socket closed" in text:
        gone = "process 0"
    else:
        found = _SILENT.search(text)
        numbers = re.findall(r"(\d+)\s*$", found.group(1), re.MULTILINE) if found else []
        gone = f"process {', '.join(dict.fromkeys(numbers))}" if numbers else "another process"
    return (
        f"r1jax: {gone} is gone (killed, or cut off), so {who} ends too; what was saved before is "
        "kept: start all processes again, and the run goes on from the last checkpoint"
    )


def pass_on(who: str) -> None:
    held: list[bytes] = []
    source, out, rest = sys.stdin.fileno(), sys.stderr.buffer, b""
    while True:
        if held and not select.select([source], [], [], _QUIET_S)[0]:
            out.writelines(held)
            out.flush()
            held = []
        data = os.read(source, 1 << 16)
        *lines, rest = (rest + data).split(b"\n")
        if not data and rest:
            lines, rest = [*lines, rest], b""
        for line in lines:
            if (held or _XLA.match(line)) and not line.startswith(b"r1jax"):
                held.append(line + b"\n")
            else:
                out.write(line + b"\n")
        out.flush()
        if not data:
            break
    if any(_ENDED in line for line in held):
        held = [say(b"".join(held).decode(errors="replace"), who).encode() + b"\n"]
    out.writelines(held)
    out.flush()


if __name__ == "__main__":
    pass_on(sys.argv[1])
