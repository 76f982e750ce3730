"""Items of reasoning-gym (`pip install reasoning-gym`), judged by the checkers of this package.

Its own checkers give credit for substrings and parts, and some execute the answer, so none of them
is called. Only data sets whose answers ours can read in full are offered.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from r1jax.rewards.logic import knights
from r1jax.rewards.logic.exact import read_integer

Item = dict[str, Any]
Entry = Mapping[str, Any]


def _countdown(entry: Entry) -> Item:
    data = entry["metadata"]
    numbers = [int(number) for number in data["numbers"]]
    return {"puzzle": "countdown", "numbers": numbers, "target": int(data["target"])}


def _knights(entry: Entry) -> Item:
    roles = knights.read_roles(entry["answer"])
    if not roles:
        raise ValueError(f"this answer names no knights: {entry['answer']!r}")
    return {"puzzle": "knights_and_knaves", "roles": roles}


def _cipher(entry: Entry) -> Item:
    return {"puzzle": "caesar", "answer": entry["answer"].upper()}


def _integer(entry: Entry) -> Item:
    if read_integer(entry["answer"]) is None:
        raise ValueError(f"this answer is no integer: {entry['answer']!r}")
    return {"puzzle": "integer"}


def _word(entry: Entry) -> Item:
    del entry
    return {"puzzle": "word"}


DATA_SETS: Mapping[str, Callable[[Entry], Item]] = {
    "countdown": _countdown,
    "knights_knaves": _knights,
    "caesar_cipher": _cipher,
    "zebra_puzzles": _word,
    "basic_arithmetic": _integer,
    "chain_sum": _integer,
    "gcd": _integer,
    "lcm": _integer,
    "leg_counting": _integer,
    "products": _integer,
}


def items(name: str, *, size: int, seed: int, **settings: Any) -> Iterator[Item]:
    """`size` items of a data set for `logic.score`."""
    if name not in DATA_SETS:
        raise ValueError(f"no checker for {name!r}; there are {', '.join(DATA_SETS)}")
    reasoning_gym = importlib.import_module("reasoning_gym")
    for entry in reasoning_gym.create_dataset(name, size=size, seed=seed, **settings):
        question, answer = entry["question"], entry["answer"]
        yield {"question": question, "answer": answer, **DATA_SETS[name](entry)}
