"""Completions that are kept: the same from every format, and nothing twice or lost."""

import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import pytest

from r1jax.config import Config, LoggingConfig
from r1jax.errors import UserError
from r1jax.monitor import completions
from r1jax.training.session import Session, chosen_rows, completion_records
from r1jax.types import Graded, PromptBatch, Rollouts

HARD = "</script>\u202e🙂 \x00" + "x" * 100_000
NEEDS = {"jsonl": "json", "parquet": "pyarrow", "arrayrecord": "array_record"}
EVERY_FORMAT = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None, reason=f"needs {package}"
        ),
    )
    for kind, package in NEEDS.items()
]


def make_graded(*, staleness: np.ndarray | None = None) -> Graded:
    """Two questions, two answers each; the last was cut and could not be judged."""
    items = ({"question": "1+1", "answer": "2", "task": "math"}, {"question": HARD, "answer": [3]})
    prompts = PromptBatch(np.array([40, 41]), (np.array([1], np.int32),) * 2, items)
    rollouts = Rollouts(
        prompts=prompts,
        tokens=np.ones((4, 3), np.int32),
        logp=np.zeros((4, 3), np.float32),
        lengths=np.array([1, 2, 3, 3], np.int32),
        finished=np.array([True, True, True, False]),
        staleness=staleness,
    )
    return Graded(
        rollouts=rollouts,
        texts=("a", "b", HARD, "d"),
        rewards=np.array([1, 0, 0.5, 0], np.float32),
        valid=np.array([True, True, True, False]),
        correct=np.array([True, False, False, False]),
        reasoned=np.array([True, False, True, False]),
        answers=("2", None, "3", None),
        parts={"accuracy": np.array([1, 0, 0, np.nan], np.float32)},
    )


def make_session(workdir: pathlib.Path, kind: str) -> Session:
    """One that has no more than keeping completions takes."""
    session = object.__new__(Session)
    config = Config(logging=LoggingConfig(completions_format=kind))
    session.setup = types.SimpleNamespace(config=config)
    session.workdir = workdir
    return session


def test_a_record_holds_what_a_reader_of_samples_asks_for():
    records = completion_records("rl", 7, make_graded(staleness=np.array([0, 0, 2, 0])), 4)
    assert json.loads(json.dumps(records)) == records
    assert records[0] == {
        "phase": "rl",
        "step": 7,
        "prompt": "1+1",
        "completion": "a",
        "reward": 1.0,
        "correct": True,
        "length": 1,
        "parts": {"accuracy": 1.0},
        "prompt_id": 40,
        "sample": 0,
        "task": "math",
        "answer": "2",
        "reference": "2",
        "valid": True,
        "finished": True,
        "reasoned": True,
        "policy": 7,
    }
    assert [record["policy"] for record in records] == [7, 7, 5, 7]
    last = records[3]
    assert (last["finished"], last["valid"], last["answer"]) == (False, False, None)
    assert (last["parts"], last["reference"], last["task"]) == ({"accuracy": None}, "[3]", None)


@pytest.mark.parametrize(
    ("prompts", "group", "count", "rows"),
    [
        (3, 4, 4, [0, 1, 4, 5]),
        (3, 4, 3, [0, 1, 4]),
        (3, 4, 0, []),
        (2, 4, 6, [0, 1, 2, 4, 5, 6]),
        (2, 3, 99, [0, 1, 2, 3, 4, 5]),
        (3, 1, 8, [0, 1, 2]),
    ],
)
def test_two_answers_to_each_question_unless_more_are_asked_for(prompts, group, count, rows):
    assert chosen_rows(prompts, group, count) == rows


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_every_format_gives_back_what_it_was_given(tmp_path, kind):
    session, graded = make_session(tmp_path, kind), make_graded()
    session.log_completions("rl", 10, graded, 4)
    problems = []
    assert list(completions.read(tmp_path, problems)) == completion_records("rl", 10, graded, 4)
    assert problems == []
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_a_resumed_run_has_every_row_once(tmp_path, kind):
    """Killed after step 20 was logged and before a checkpoint: it goes on at step 15."""
    session, graded = make_session(tmp_path, kind), make_graded()
    for step in (0, 10, 20):
        session.log_completions("rl", step, graded, 2)
    session.log_completions("sft", 30, graded, 2)
    session.forget_after("rl", 15)
    kept = [(r["phase"], r["step"]) for r in completions.read(tmp_path, [])]
    assert kept == [("rl", 0)] * 2 + [("rl", 10)] * 2 + [("sft", 30)] * 2
    for step in (20, 30):
        session.log_completions("rl", step, graded, 2)
    steps = [r["step"] for r in completions.read(tmp_path, []) if r["phase"] == "rl"]
    assert steps == [0, 0, 10, 10, 20, 20, 30, 30]


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_a_run_may_change_formats(tmp_path, kind):
    graded = make_graded()
    make_session(tmp_path, "jsonl").log_completions("rl", 0, graded, 1)
    make_session(tmp_path, kind).log_completions("rl", 10, graded, 1)
    assert [record["step"] for record in completions.read(tmp_path, [])] == [0, 10]
    make_session(tmp_path, "jsonl").forget_after("rl", 0)
    assert list(completions.read(tmp_path, [])) == []


def test_what_was_cut_off_or_is_none_of_ours_is_passed_over(tmp_path):
    folder = tmp_path / completions.FOLDER
    folder.mkdir()
    for name in (".rl_00000010.parquet.draft", "notes_on.parquet", "rl_00000010.csv", "x.parquet"):
        (folder / name).write_text("")
    problems = []
    assert list(completions.read(tmp_path, problems)) == []
    completions.forget_files(tmp_path, "rl", 0)
    assert len(list(folder.iterdir())) == 4
    assert problems == []


@pytest.mark.parametrize("kind", EVERY_FORMAT[1:])
def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path, kind):
    session = make_session(tmp_path, kind)
    for step in (0, 10):
        session.log_completions("rl", step, make_graded(), 1)
    (tmp_path / completions.FOLDER / f"rl_00000000.{kind}").write_bytes(b"PAR1 not really")
    problems = []
    assert [record["step"] for record in completions.read(tmp_path, problems)] == [10]
    assert [f"rl_00000000.{kind}" in problem for problem in problems] == [True]


@pytest.mark.parametrize("kind", ["parquet", "arrayrecord"])
def test_a_format_that_is_not_installed_says_what_to_install(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, completions.NEEDS[kind][0], None)
    with pytest.raises(UserError, match=rf"completions_format={kind} .*'r1jax\[data\]'"):
        completions.require_format(kind)
    completions.require_format("jsonl")
