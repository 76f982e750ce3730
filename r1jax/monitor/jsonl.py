"""Reading JSON lines that a run may still be writing, or was killed over."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any


def json_lines(path: pathlib.Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. A run that was killed leaves its last line cut off."""
    damaged = 0
    with path.open(errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                damaged += bool(line.strip())
                continue
            if isinstance(record, dict):
                yield record
            else:
                damaged += 1
    if damaged:
        lines = "1 line" if damaged == 1 else f"{damaged:,} lines"
        problems.append(f"{lines} of {path.name} could not be read")
