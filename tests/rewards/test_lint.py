"""r1jax lint-data: what of a data set cannot be trained on, with its line and the reason."""

import json

import pytest

from r1jax.cli import lint_data
from r1jax.cli.main import main
from r1jax.data.tasks import TASKS
from r1jax.rewards import lint

DOUBLE = {"type": "stdin", "cases": [{"input": "2", "output": "4"}]}
FINE = [
    {"question": "1+1?", "answer": "2"},
    {"question": "How many?", "answer": 7},
    {"question": "How few?", "answer": 0},
    {"question": "Solve.", "answer": "\\frac{1}{2}", "task": "math", "id": "a"},
    {"question": "GSM8K", "answer": "so 3 + 4 = 7\n#### 7", "task": "math"},
    {"question": "Which?", "answer": "B", "task": "choice", "options": ["x", "y"]},
    {"question": "Double.", "answer": "print(2*int(input()))", "task": "code", "tests": DOUBLE},
    {"question": "Double!", "task": "code", "tests": DOUBLE},
    {"question": "24", "answer": "8*(7-4)*1", "task": "24", "numbers": [8, 7, 4, 1], "target": 24},
    {"question": "11", "answer": "2", "task": "running_sum"},
    {"question": "?", "answer": "12", "task": "logic", "puzzle": "integer"},
]
BAD = [
    (b'{"question": "cut', "not JSON"),
    (b'{"question": "\xff"}', "not UTF-8 at byte 14"),
    (b"[1, 2]", "not a JSON object but list"),
    ({"answer": "2"}, 'no text in "question"; its fields: answer'),
    ({"question": "?", "answer": [1]}, '"answer" is of type list'),
    ({"question": "?", "answer": ""}, "empty"),
    ({"question": "?", "answer": "\\frac{1}{"}, "unparsable"),
    ({"question": "?", "answer": "1", "task": "riddles"}, "task 'riddles': nobody judges it"),
    ({"question": "?", "answer": "Z", "task": "choice", "options": ["x"]}, "names no option"),
    ({"question": "?", "answer": "1", "task": "code"}, 'no "tests"'),
    ({"question": "?", "task": "code", "tests": {"type": "riddle"}}, "unknown type of tests"),
    (
        {"question": "?", "task": "code", "answer": "print(1)", "tests": DOUBLE},
        "its program fails: case 1: line 1 differs",
    ),
    ({"question": "?", "answer": "8*3", "task": "24", "numbers": [8, 7, 4, 1], "target": 24}, ""),
    ({"question": "?", "answer": "1", "task": "24"}, "missing or wrong"),
    ({"question": "11", "answer": "3", "task": "running_sum"}, "its answer is not right"),
    ({"question": "?", "answer": "1", "task": "logic", "puzzle": "go"}, "no such puzzle 'go'"),
]


@pytest.fixture(autouse=True)
def fresh_flags():
    """What a process of its own would start with."""
    for name in lint_data.FLAGS:
        lint_data.FLAGS[name].unparse()


@pytest.fixture
def write(tmp_path):
    def write_lines(records):
        path = tmp_path / "data.jsonl"
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return str(path)

    return write_lines


def test_a_good_file_passes(write, capsys):
    assert main(["lint-data", write(FINE)]) == 0
    out = capsys.readouterr().out
    assert f"{len(FINE)} records, {len(FINE)} right by themselves, 0 fail" in out
    assert "no program 1" in out


def test_every_failure_is_listed_with_its_line_and_reason(write, capsys):
    records = [pair for bad, _ in BAD for pair in (FINE[0], b"", bad)]
    assert main(["lint-data", write(records), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == 2 * len(BAD)
    assert report["ok"] == len(BAD)
    assert [entry["line"] for entry in report["failed"]] == [3 * n + 3 for n in range(len(BAD))]
    for entry, (_, reason) in zip(report["failed"], BAD, strict=True):
        assert reason in entry["reason"], entry
        assert entry["reason"]
        assert "\n" not in entry["reason"]
    assert len(report["flagged"]) == len(BAD) - 1  # the same question again and again


def test_text_names_line_reason_and_answer(write, capsys):
    records = [FINE[0], {**FINE[0], "answer": "3"}, {"question": "q", "answer": "x+", "id": "k7"}]
    assert main(["lint-data", write(records), "--flags"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("line 3 (math): unparsable")
    assert lines[0].endswith("answer 'x+', id k7")
    assert lines[1].startswith("line 2 (math), doubtful: other answer in line 1: 2")
    assert lines[-1].endswith("3 records, 2 right by themselves, 1 fail; doubtful: other answer 1")


def test_a_task_of_ones_own_is_routed(write, capsys):
    path = write([{"question": "?", "answer": "1/2", "task": "gsm8k"}])
    assert main(["lint-data", path]) == 1
    assert main(["lint-data", path, "--route=gsm8k=math"]) == 0
    lint_data.FLAGS["route"].unparse()
    assert main(["lint-data", path, "--route=gsm8k=maths"]) == 2
    assert "must be TASK=VERIFIER" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_the_tiny_tasks_are_right_by_themselves(task, capsys):
    assert main(["lint-data", task, "--count=60"]) == 0
    assert "60 right by themselves" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: no such file; give a JSONL file, or one of running"),
        (["/tmp"], "/tmp: is a folder"),
        (["/dev/null"], "no such file"),
        ([], "give one file or task"),
        (["parity", "--count=0"], "--count must be 1 or more"),
        (["parity", "--config.seed=1"], "give one file or task"),
    ],
)
def test_what_cannot_be_read_is_one_line(arguments, message, capsys):
    assert main(["lint-data", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_an_empty_file_is_an_error(write, capsys):
    assert main(["lint-data", write([b"", b" "])]) == 2
    assert "holds no records" in capsys.readouterr().err


def test_a_wrong_answer_of_a_tiny_task_would_be_seen():
    (record,) = lint.drawn("running_sum", 1, 0)
    wrong = {**record, "answer": str((int(record["answer"]) + 1) % 10)}
    assert lint.lint(record, {}).failed == ""
    assert lint.lint(wrong, {}).failed == "its answer is not right"
