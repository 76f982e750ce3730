"""Results as JSON with the type written beside every value; only plain types have a form.

`type(x) is int`, not `isinstance`: a subclass could carry an `__eq__` that is always true. The
program shares its interpreter with `encode`, so it may forge any *value*; it does not know which
value is expected, and `decode`, on the other side, builds nothing but plain objects.
"""

from __future__ import annotations

from _json import encode_basestring_ascii as quoted  # `json` imports re: 6 ms of each start

MAX_DEPTH = 200

_SEQUENCES = (list, tuple, set, frozenset)


class NotPlain(Exception):
    """A value outside the plain types, or nested too deeply."""


def encode(value: object, depth: int = MAX_DEPTH) -> str:
    if depth == 0:
        raise NotPlain(f"nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if value is None:
        return "null"
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int:
        return f'["int","{value:x}"]'  # hexadecimal: decimal digits cost quadratic time
    if type(value) is float:
        return f'["float","{value.hex()}"]'
    if type(value) is complex:
        return f'["complex","{value.real.hex()}","{value.imag.hex()}"]'
    if type(value) is str:
        return quoted(value)
    if type(value) is bytes or type(value) is bytearray:
        return f'["bytes","{value.hex()}"]'
    if isinstance(value, _SEQUENCES) and kind in _SEQUENCES:
        items = ",".join([encode(item, depth - 1) for item in value])
        return f'["{kind.__name__}",[{items}]]'
    if isinstance(value, dict) and (kind is dict or _is_library_dict(kind)):
        pairs = [f"[{encode(k, depth - 1)},{encode(v, depth - 1)}]" for k, v in dict.items(value)]
        return f'["dict",[{",".join(pairs)}]]'
    raise NotPlain(f"a value of type {kind.__name__}")


def _is_library_dict(kind: type) -> bool:
    """Of all subclasses only these, which solutions often return."""
    import collections  # not before it is needed: a millisecond of each start

    return kind in (collections.defaultdict, collections.Counter, collections.OrderedDict)


def refusal(why: str) -> str:
    """What stands in the place of a value that is not plain."""
    return f'["refused",{quoted(why[:200])}]'
