"""Prompts that are too long: an error, dropped or truncated on the left, and counted."""

import dataclasses
import json

import pytest

from r1jax.config import Config, DataConfig
from r1jax.data.tokenizers import SymbolTokenizer
from r1jax.errors import UserError
from r1jax.training.questions import read_files
from r1jax.training.setup import Setup


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "questions.jsonl"
    lines = [{"question": "1" * length + "?", "answer": "1"} for length in (2, 9, 3, 12)]
    path.write_text("\n".join(map(json.dumps, lines)))
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"question": "2+2+2+2=?", "answer": "8"}))
    return DataConfig(train=str(path), eval=str(held_out), max_prompt_tokens=6)


def read(data):
    return read_files(Config(data=data), lambda item: list(item["question"].encode()))


def test_it_is_an_error_that_says_what_can_be_done(data):
    with pytest.raises(UserError, match=r"2 of 4 have more.*too_long=drop.*=truncate"):
        read(data)


def test_dropped_ones_are_counted(data):
    easy = dataclasses.replace(data, too_long="drop", eval="", held_out=0.01)
    files = read(dataclasses.replace(easy, max_prompt_tokens=10))
    assert len(files.train) + len(files.held_out) == 3
    assert "1 dropped, their prompts are too long" in files.describe()


def test_truncated_ones_stay_and_are_counted(data):
    files = read(dataclasses.replace(data, too_long="truncate"))
    assert (len(files.train), len(files.held_out)) == (4, 1)
    assert "3 truncated on the left, their prompts are too long" in files.describe()


def test_the_last_tokens_are_what_is_kept():
    config = Config(data=DataConfig(template="raw", max_prompt_tokens=4, too_long="truncate"))

    tokenizer = SymbolTokenizer("abcdefg")
    setup = Setup.__new__(Setup)
    start = type("Start", (), {"tokenizer": tokenizer})()
    setup.__dict__.update(config=config, start=start)
    assert setup.encode({"question": "abcdefg"}) == tokenizer.encode("defg")
    assert setup.encode({"question": "ab"}) == tokenizer.encode("ab")
