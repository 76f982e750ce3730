"""What a run must not do again and again."""

import json

import pytest


def test_the_steady_loop_compiles_nothing(whole_run):
    lines = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
    compiled = [line["compiles"] for line in lines if line["phase"] == "rl"]
    assert compiled[1] > 0
    assert compiled[-1] == compiled[1]


def test_held_out_questions_are_measured_in_the_loop_as_after_it(whole_run):
    """With programs that are compiled already: what compiles nothing above evaluates, too."""
    lines = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["phase"] == "evaluate"]
    assert [line["step"] for line in measured] == [4, 8, 12]
    (after,) = (line for line in lines if line["phase"] == "evaluate_after")
    assert measured[-1] | {"phase": ""} == after | {"phase": ""}
    assert measured[0] | {"step": 12} != measured[-1]


def test_the_summary_has_what_readers_rely_on(whole_run):
    summary = json.loads((whole_run / "summary.json").read_text())
    keys = {"greedy_accuracy", "accuracy", "mean_length", "accuracy_with_reasoning"}
    keys |= {"accuracy_without_reasoning", "pass_at_k", "maj_at_k"}
    assert keys <= summary["before"].keys()
    assert keys <= summary["after"].keys()
    assert {"pretrain", "rl", "evaluate", "report", "compile"} <= summary["seconds"].keys()


@pytest.mark.slow
def test_evaluate_prints_the_same_numbers_as_the_run(runs, whole_run):
    for base, when in [([], "after"), (["--base"], "before")]:
        done = runs.r1jax("evaluate", str(whole_run), *base)
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout)
        summary = json.loads((whole_run / "summary.json").read_text())[when]
        del summary["step"]  # of the base, 0 in the run's counting
        assert {key: printed[key] for key in summary} == summary


@pytest.mark.slow
def test_sample_reads_what_the_policy_answers(runs, whole_run):
    sample = ["sample", str(whole_run)]
    done = runs.r1jax(*sample, "--prompt=123", "--samples=3", "--show_prompt")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "question: 123<think>"
    assert len(lines) == 4
    again = runs.r1jax(*sample, "--prompt=123", "--samples=3", "--show_prompt")
    assert again.stdout == done.stdout
    wrong = runs.r1jax(*sample, "--prompt=12x")
    assert wrong.returncode == 2
    assert "no symbol 'x'" in wrong.stderr
