"""What a run logs, read back: by a run that may go on, or after one that was killed."""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any, TypeGuard

TEXT_LIMIT = 1500  # characters kept of a prompt or completion


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


def is_step(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number that fits a float; JSON has true, NaN and endless digits too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    """Head and tail, where the reasoning begins and the answer stands."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit * 2 // 3], text[-limit // 3 :]
    return f"{head}\n[… {len(text) - limit:,} characters left out …]\n{tail}"
