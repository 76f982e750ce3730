"""What runs in the grader's worker processes: mathematics, and functions from a config."""

import itertools
import math
from typing import Any

from r1jax.rewards import parts
from r1jax.rewards.math import batch as math_batch
from r1jax.rewards.samples import from_json


def answer(item: dict[str, Any]) -> Any:
    """The pool's function: of one math item a verdict, of a custom part the list of its values."""
    if "math" in item:
        return math_batch.grade_item(item["math"])
    samples = [from_json(fields) for fields in item["samples"]]
    function = parts.load_function(item["custom"])
    if item["of_group"]:
        values = list(function(samples, **item["settings"]))
    else:
        values = [function(samples[0], **item["settings"])]
    if len(values) != len(samples):
        raise ValueError(f"{item['custom']} gave {len(values)} values for {len(samples)} samples")
    if item["steps"]:
        return [_steps(item["custom"], value, samples[0].text) for value in values]
    return [_number(item["custom"], value) for value in values]


def _steps(name: str, value: Any, text: str) -> list[tuple[int, float]] | None:
    """Steps in their order, within the text; None masks."""
    if value is None:
        return None
    steps = [(int(end), _number(name, reward)) for end, reward in value]
    ends = [0, *(end for end, _ in steps)]
    if any(a >= b for a, b in itertools.pairwise(ends)) or ends[-1] > len(text):
        raise ValueError(f"{name}: ends {ends[1:]} must rise, within 1 to {len(text)} characters")
    known = [(end, reward) for end, reward in steps if reward is not None]
    return known if len(known) == len(steps) else None


def _number(name: str, value: Any) -> float | None:
    """A finite number; None masks, and so does NaN."""
    if value is None:
        return None
    if not hasattr(value, "__float__") or isinstance(value, str):
        raise TypeError(f"{name} gave {type(value).__name__}, not a number or None")
    value = float(value)
    return value if math.isfinite(value) else None
