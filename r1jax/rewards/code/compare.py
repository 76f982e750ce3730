"""Is this output, or this value, the expected one? Pure functions of plain data.

Standard output is compared line by line: blanks at the end of a line, the kind of line ending and
empty lines at the end do not count, everything else does ("1.0" is not "1", two spaces are not
one). With a tolerance, lines are compared token by token instead: a number may be off by
`tolerance`, absolutely or relative to the expected one, but two integers must be equal digit for
digit, and nan and inf never equal anything.

Values of function tests are compared by type. JSON has one sequence and only text keys, so an
expected list also accepts a tuple, and an expected text key the number that JSON would write so.
A bool is not a number. An int equals a float when their values are exactly the same; two floats
may be off by `tolerance`.
"""

import math
import re
from decimal import Decimal
from typing import Any

# Function tests write floats as decimals of a last digit that another summation order changes.
DEFAULT_TOLERANCE = 1e-9

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_MAX_NUMBER = 1000  # characters; longer tokens are compared as text


def difference_of_outputs(got: str, expected: str, tolerance: float | None = None) -> str | None:
    """Where the output differs, in words that do not repeat it; None when it is right."""
    got_lines, expected_lines = _lines(got), _lines(expected)
    for number, (line, wanted) in enumerate(zip(got_lines, expected_lines, strict=False), 1):
        if line != wanted and not _close_lines(line, wanted, tolerance):
            return f"line {number} differs"
    if len(got_lines) != len(expected_lines):
        return f"{len(got_lines)} lines, expected {len(expected_lines)}"
    return None


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _close_lines(got: str, expected: str, tolerance: float | None) -> bool:
    if tolerance is None:
        return False
    tokens, wanted = got.split(), expected.split()
    return len(tokens) == len(wanted) and all(
        _close_tokens(a, b, tolerance) for a, b in zip(tokens, wanted, strict=True)
    )


def _close_tokens(got: str, expected: str, tolerance: float) -> bool:
    if got == expected:
        return True
    if not (_is_number(got) and _is_number(expected)):
        return False
    if _INTEGER.fullmatch(got) and _INTEGER.fullmatch(expected):
        return Decimal(got) == Decimal(expected)
    a, b = Decimal(got), Decimal(expected)
    bound = Decimal(repr(tolerance))
    if not _INTEGER.fullmatch(expected):  # an integer's digits all count, however large it is
        bound *= max(1, abs(b))
    return abs(a - b) <= bound


def _is_number(token: str) -> bool:
    return len(token) <= _MAX_NUMBER and _NUMBER.fullmatch(token) is not None


def equal_values(got: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Compare a decoded result with an expected value from JSON."""
    tolerance = DEFAULT_TOLERANCE if tolerance is None else tolerance
    if isinstance(expected, dict):
        return isinstance(got, dict) and _equal_dicts(got, expected, tolerance)
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(got, (list, tuple))
            and len(got) == len(expected)
            and all(equal_values(a, b, tolerance) for a, b in zip(got, expected, strict=True))
        )
    if isinstance(got, bool) or isinstance(expected, bool):
        return got is expected
    if isinstance(got, float) and isinstance(expected, float):
        return math.isfinite(got) and math.isclose(
            got, expected, rel_tol=tolerance, abs_tol=tolerance
        )
    if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
        return got == expected  # exact in Python, also between int and float
    return type(got) is type(expected) and got == expected


def _equal_dicts(got: dict, expected: dict, tolerance: float) -> bool:
    if len(got) != len(expected):
        return False
    by_key = {_json_key(key): value for key, value in got.items()}
    if len(by_key) != len(got):  # 1 and "1" at once: JSON could not tell them apart
        return False
    return all(
        key in by_key and equal_values(by_key[key], value, tolerance)
        for key, value in ((_json_key(k), v) for k, v in expected.items())
    )


def _json_key(key: Any) -> Any:
    """The text that JSON writes for this key; other keys as they are."""
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return f"{key:d}" if key.bit_length() < 10_000 else key
    return repr(key) if isinstance(key, float) else key
