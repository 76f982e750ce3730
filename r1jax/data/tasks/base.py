"""What a procedural task is, and how its questions and documents are drawn."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from r1jax.data.templates import render
from r1jax.data.tokenizers import EOS, SymbolTokenizer

Item = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of questions with exact answers, and text that answers them well or badly.

    `draw(rng)` makes an item with its `question`; `working(item, rng)` is a chain of thought and
    the answer it comes to; `guess(item, rng)` answers at once; `is_correct(answer, item)` judges
    any string and never raises.
    """

    name: str
    symbols: tuple[str, ...]
    draw: Callable[[np.random.Generator], Item]
    working: Callable[[Item, np.random.Generator], tuple[str, str]]
    guess: Callable[[Item, np.random.Generator], str]
    is_correct: Callable[[str, Item], bool]
    joiner: str = ""

    def tokenizer(self) -> SymbolTokenizer:
        return SymbolTokenizer(self.symbols, joiner=self.joiner)


# What a generator is keyed with besides the seed, so that no two uses share questions.
SPLITS = {"pretrain": 0, "train": 1, "eval": 2, "sft": 3}


def rng_for(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS[split], index])


def item_at(task: Task, *, seed: int, split: str, index: int) -> Item:
    """The question at one place of the endless stream: the same for ever, in any order."""
    return {**task.draw(rng_for(seed, split, index)), "task": task.name}


def documents_at(
    task: Task, *, seed: int, index: int, count: int, reasoning_share: float
) -> list[tuple[str, str]]:
    """`count` (prompt, response) texts of the corpus a base model learns from.

    A share of them works the answer out between the think tags; the others leave that part empty
    and answer at once, mostly wrong.
    """
    rng = rng_for(seed, "pretrain", index)
    documents = []
    for _ in range(count):
        item = task.draw(rng)
        if rng.random() < reasoning_share:
            thoughts, answer = task.working(item, rng)
        else:
            thoughts, answer = "", task.guess(item, rng)
        response = f"{thoughts}</think><answer>{answer}</answer>{EOS}"
        documents.append((render("symbols", item["question"]), response))
    return documents
