"""Results as JSON with the type written beside every value; only plain types have a form.

`type(x) is int`, not `isinstance`: a subclass could carry an `__eq__` that is always true. The
program shares its interpreter with `encode`, so it may forge any *value*; it does not know which
value is expected, and `decode`, on the other side, builds nothing but plain objects.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from json import dumps, loads  # by name: a program may replace the attributes of `json`
from typing import Any

MAX_DEPTH = 200


class NotPlain(Exception):
    """A value outside the plain types, or nested too deeply."""


def encode(value: object) -> str:
    return dumps(_tagged(value, MAX_DEPTH), separators=(",", ":"))


def _tagged(value: Any, depth: int) -> object:
    if depth == 0:
        raise NotPlain(f"nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return ["int", f"{value:x}"]  # hexadecimal: decimal digits cost quadratic time
    if kind is float:
        return ["float", value.hex()]
    if kind is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if kind is str:
        return value
    if kind is bytes or kind is bytearray:
        return ["bytes", value.hex()]
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [_tagged(item, depth - 1) for item in value]]
    # Of the subclasses only these library dicts, which solutions often return.
    if kind in (dict, defaultdict, OrderedDict, Counter):
        pairs = dict.items(value)
        return ["dict", [[_tagged(k, depth - 1), _tagged(v, depth - 1)] for k, v in pairs]]
    raise NotPlain(f"a value of type {kind.__name__}")


_FROM_ITEMS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def decode(text: str) -> object:
    """The plain object that `encode` wrote; ValueError for anything else."""
    try:
        return _untagged(loads(text), MAX_DEPTH)
    except (RecursionError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"not an encoded value: {type(error).__name__}") from None


def _untagged(node: object, depth: int) -> object:
    if node is None or isinstance(node, (bool, str)):
        return node
    if depth == 0 or not isinstance(node, list) or len(node) < 2:
        raise ValueError("not an encoded value")
    tag, body = node[0], node[1]
    if tag == "int":
        return int(body, 16)
    if tag == "float":
        return float.fromhex(body)
    if tag == "complex":
        return complex(float.fromhex(body), float.fromhex(node[2]))
    if tag == "bytes":
        return bytes.fromhex(body)
    if tag == "dict":
        return {_untagged(k, depth - 1): _untagged(v, depth - 1) for k, v in body}
    return _FROM_ITEMS[tag](_untagged(item, depth - 1) for item in body)
