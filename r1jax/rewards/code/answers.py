"""Reading what `inside.values` wrote: into plain objects, or not at all."""

import dataclasses
import json
from typing import Any

from r1jax.rewards.code.inside.values import MAX_DEPTH

_FROM_ITEMS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


@dataclasses.dataclass(frozen=True)
class Refused:
    """The program answered with something that has no plain form."""

    why: str


def decode(text: str) -> Any:
    """The plain object or `Refused`; ValueError for what `encode` could not have written."""
    try:
        return _untagged(json.loads(text), MAX_DEPTH)
    except (RecursionError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"not an encoded value: {type(error).__name__}") from None


def _untagged(node: Any, depth: int) -> Any:
    if node is None or isinstance(node, (bool, str)):
        return node
    if depth == 0 or not isinstance(node, list) or len(node) < 2:
        raise ValueError("not an encoded value")
    tag, body = node[0], node[1]
    if tag == "refused" and depth == MAX_DEPTH:
        return Refused(str(body))
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
