"""Messages on a pipe: a JSON header and named byte strings, both with their lengths in front."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable

_LENGTHS = struct.Struct("!II")


class Closed(Exception):
    """The other end is gone."""


def encode(header: dict, blobs: dict[str, bytes]) -> bytes:
    sizes = {name: len(blob) for name, blob in blobs.items()}
    head = json.dumps({"header": header, "sizes": sizes}).encode("ascii")
    body = b"".join(blobs.values())
    return _LENGTHS.pack(len(head), len(body)) + head + body


def write(fd: int, header: dict, blobs: dict[str, bytes]) -> None:
    view = memoryview(encode(header, blobs))
    while view:
        view = view[os.write(fd, view) :]


def read(receive: Callable[[int], bytes]) -> tuple[dict, dict[str, bytes]]:
    """The next message, or `Closed`. `receive(n)` gives 1 to n bytes, none at the end."""
    head_size, body_size = _LENGTHS.unpack(_read_exactly(receive, _LENGTHS.size))
    head = json.loads(_read_exactly(receive, head_size))
    body = _read_exactly(receive, body_size)
    blobs, start = {}, 0
    for name, size in head["sizes"].items():
        blobs[name] = body[start : start + size]
        start += size
    return head["header"], blobs


def _read_exactly(receive: Callable[[int], bytes], size: int) -> bytes:
    parts = []
    while size:
        part = receive(min(size, 1 << 20))
        if not part:
            raise Closed
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
