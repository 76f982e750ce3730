"""Messages on a pipe, with their lengths in front.

To the sandbox goes `marshal`, fast and of our own making. From it come only numbers and byte
strings in a fixed layout: whatever runs there, reading its words cannot do more than fail.
"""

from __future__ import annotations

import marshal
import os
import struct
from _collections_abc import Callable  # `collections` itself costs a millisecond of each start

_LENGTH = struct.Struct("!I")
_MARSHAL_VERSION = 4  # the two interpreters need not be the same

ENDS = ("exit", "timeout", "output", "memory", "abandoned")
OUTPUTS = ("setup", "stdout", "stderr", "result", "fetched")
_REPLY = struct.Struct("!BidddB5I")


class Closed(Exception):
    """The other end is gone."""


def encode(message: dict) -> bytes:
    data = marshal.dumps(message, _MARSHAL_VERSION)
    return _LENGTH.pack(len(data)) + data


def read(receive: Callable[[int], bytes]) -> dict:
    """The next message, or `Closed`. `receive(n)` gives 1 to n bytes, none at the end."""
    (size,) = _LENGTH.unpack(_read_exactly(receive, _LENGTH.size))
    return marshal.loads(_read_exactly(receive, size))


def write_text(fd: int, text: str) -> None:
    data = text.encode("ascii", "replace")
    write_all(fd, _LENGTH.pack(len(data)) + data)


def read_text(receive: Callable[[int], bytes]) -> str:
    (size,) = _LENGTH.unpack(_read_exactly(receive, _LENGTH.size))
    return _read_exactly(receive, size).decode("ascii", "replace")


def write_reply(fd: int, reply: dict, outputs: dict[str, bytes]) -> None:
    """How a case ended. `fetched` is empty when there is no such file."""
    parts = [outputs[name] for name in OUTPUTS]
    head = _REPLY.pack(
        ENDS.index(reply["end"]),
        reply["code"],
        reply["wall_s"],
        reply["cpu_s"],
        reply["peak_mb"],
        reply["clean"],
        *(len(part) for part in parts),
    )
    write_all(fd, head + b"".join(parts))


def read_reply(receive: Callable[[int], bytes]) -> tuple[dict, dict[str, bytes]]:
    fields = _REPLY.unpack(_read_exactly(receive, _REPLY.size))
    end, code, wall_s, cpu_s, peak_mb, clean, *sizes = fields
    outputs = {
        name: _read_exactly(receive, size) for name, size in zip(OUTPUTS, sizes, strict=True)
    }
    reply = {
        "end": ENDS[end],
        "code": code,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_mb": peak_mb,
        "clean": bool(clean),
    }
    return reply, outputs


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(receive: Callable[[int], bytes], size: int) -> bytes:
    parts = []
    while size:
        part = receive(min(size, 1 << 20))
        if not part:
            raise Closed
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
