"""Passes a process's stderr on, and says in one line why jax has ended it.

When a process of a run is gone, XLA ends the others from a C++ thread, with a page of its own. No
handler in Python can run then, so this is a process of its own, with the standard library only:

    python -S -E -P last_words.py NAME  < what the process writes to stderr
"""

import os
import re
import select
import sys
import time

_ENDED = b"Terminating process because the JAX distributed service detected fatal errors"
_SILENT = re.compile(r"(?:unhealthy|stopped sending heartbeats)[^\n]*:\s*\n((?:[^\n]*\d+\s*\n)+)")
_HELD_S = 2.0  # a line is passed on so much later


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
    """Each line a little later than it came: what threads say while their peer goes, and are ended
    for, belongs to the one line."""
    held: list[tuple[float, bytes]] = []
    source, out, rest, data = sys.stdin.fileno(), sys.stderr.buffer, b"", b"-"
    while data:
        ready = select.select([source], [], [], _HELD_S if held else None)[0]
        data = os.read(source, 1 << 16) if ready else b"-"
        *lines, rest = (rest + (data if ready else b"")).split(b"\n")
        now = time.monotonic()
        for line in lines:
            if line.startswith(b"r1jax"):  # the line that a process ends with
                out.write(line + b"\n")
            else:
                held.append((now, line + b"\n"))
        if not any(_ENDED in line for _, line in held):  # else the process is about to end
            out.writelines(line for came, line in held if came < now - _HELD_S)
            held = [(came, line) for came, line in held if came >= now - _HELD_S]
        out.flush()
    last = [line for _, line in held] + ([rest + b"\n"] if rest else [])
    if any(_ENDED in line for line in last):
        last = [say(b"".join(last).decode(errors="replace"), who).encode() + b"\n"]
    out.writelines(last)
    out.flush()


if __name__ == "__main__":
    pass_on(sys.argv[1])
