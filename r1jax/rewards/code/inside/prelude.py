"""Names that LeetCode-style solutions use without an import. Function and assert tests only."""

from __future__ import annotations

_NAMES_OF = {
    "typing": "Any Callable Dict Iterable Iterator List Optional Sequence Set Tuple Union",
    "collections": "Counter OrderedDict defaultdict deque",
    "functools": "cache cmp_to_key lru_cache reduce",
    "heapq": "heapify heappop heappush",
    "bisect": "bisect_left bisect_right",
    "itertools": "accumulate combinations permutations product",
    "math": "ceil comb floor gcd inf sqrt",
}
_MODULES = "bisect collections functools heapq itertools math random re string"


def names_for(source: str) -> dict[str, object]:
    """Those that occur in the source; the others are not worth the milliseconds of their import."""
    found: dict[str, object] = {}
    for name in _MODULES.split():
        if name in source:
            found[name] = __import__(name)
    for module, names in _NAMES_OF.items():
        for name in names.split():
            if name in source:
                found[name] = getattr(__import__(module), name)
    return found
