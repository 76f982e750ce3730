"""The report says what a run's files say: no more, no less, and never with a crash."""

import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.monitor import report_data, report_samples, report_verdict
from r1jax.monitor.doctor import HELD_OUT
from r1jax.monitor.records import json_lines
from r1jax.monitor.report import write_figure, write_report
from r1jax.monitor.report_charts import LEARNING, OTHERS
from r1jax.monitor.report_data import Run, Sample, read_run

STEPS = 40
TASK_METRICS = ("accuracy", "reward")
VOID = {"meta", "br", "i", "path", "circle"}


def curve(start: float, end: float, steps: int = STEPS) -> np.ndarray:
    """Most of the way in the first half, then level, with a little scatter."""
    scatter = np.random.default_rng(0).normal(0, 0.005 * abs(end), steps)
    return start + (end - start) * np.minimum(2 * np.arange(steps) / steps, 1) + scatter


def rl_records(accuracy: np.ndarray, length: np.ndarray, reward: np.ndarray) -> list[dict]:
    """Steps of RL in which the share that reasons follows accuracy."""
    share = np.clip(accuracy, 0.05, 0.95)
    return [
        {
            "phase": "rl",
            "step": i,
            "accuracy": accuracy[i],
            "completions/mean_length": length[i],
            "reward": reward[i],
            "rewards/accuracy/mean": accuracy[i],
            "accuracy_with_reasoning": 0.95,
            "accuracy_without_reasoning": 0.1,
            "reasoning_share": share[i],
            "entropy": 0.5 - 0.01 * i,
            "loss": 0.1,
            "time/rollout": 0.2,
            "time/update": 0.1,
        }
        for i in range(len(accuracy))
    ]


def sample_record(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "phase": "rl",
        "step": step,
        "prompt": "1+1",
        "completion": "2</think><answer>2</answer>",
        "reward": 1.1,
        "correct": True,
        "length": 9,
        "parts": {"accuracy": 1.0, "format": 1.0},
    } | changes


def write_lines(path: pathlib.Path, records: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(
    workdir: pathlib.Path, records: Iterable[Any], config: Mapping[str, Any] | None = None
) -> pathlib.Path:
    workdir.mkdir(exist_ok=True)
    write_lines(workdir / "metrics.jsonl", records)
    rl = {"steps": STEPS, "prompts_per_step": 32, "samples_per_prompt": 16}
    saved = {"name": "a_run", "seed": 3, "reward": "rules", "rl": rl} | dict(config or {})
    (workdir / "config.json").write_text(json.dumps(saved))
    summary = {
        "before": {"greedy_accuracy": 0.09, "accuracy": 0.17, "mean_length": 5.7, "k": 8},
        "after": {"greedy_accuracy": 1.0, "accuracy": 0.98, "mean_length": 13.0, "k": 8},
        "seconds": {"pretrain": 30.0, "rl": 15.0, "compile": 11.0},
    }
    (workdir / "summary.json").write_text(json.dumps(summary))
    write_lines(workdir / "completions.jsonl", [sample_record(step) for step in (0, 20, 39)])
    return workdir


def learned(workdir: pathlib.Path) -> pathlib.Path:
    accuracy = curve(0.2, 0.95)
    return write_run(workdir, rl_records(accuracy, curve(6, 13), accuracy + 0.1))


def flat(workdir: pathlib.Path, *, drift: float = 0.0) -> pathlib.Path:
    """A control: rewards are coin flips, whatever the policy drifts to."""
    reward = np.random.default_rng(1).normal(0.5, 0.02, STEPS)
    records = rl_records(curve(0.2, 0.2 + drift), curve(6, 6 + 20 * drift), reward)
    write_run(workdir, records, {"reward": "random"})
    (workdir / "summary.json").unlink()
    return workdir


class Page(HTMLParser):
    """Text and tags of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID - {"i"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def read_page(workdir: pathlib.Path) -> Page:
    return Page(write_report(workdir).read_text())


def states(run: Run) -> tuple[str, str]:
    return report_verdict.rise_together(run).state, report_verdict.reasoning_pays(run).state


def test_the_page_of_a_run_that_learned(tmp_path: pathlib.Path) -> None:
    page = read_page(learned(tmp_path))
    assert (
        "Greedy accuracy went from 0.09 to 1.00 and responses from 5.7 to 13.0 tokens" in page.text
    )
    assert "in 40 RL steps and 45s." in page.text
    assert "It passes both tests of a real reproduction." in page.text
    assert page.text.count("PASS") == 2
    for words in ("Before and after", "Early · step 0", "Late · step 39", "Compiling took 11 s"):
        assert words in page.text
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) >= 8
    assert all(attrs["aria-label"] for attrs in charts)


def test_the_page_fetches_nothing(tmp_path: pathlib.Path) -> None:
    page = read_page(learned(tmp_path))
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any({"src", "href"} & attrs.keys() for _, attrs in page.tags)
    html = (tmp_path / "report.html").read_text()
    assert "url(" not in html
    assert set(re.findall(r"https?://[^\"' ]+", html)) == {"http://www.w3.org/2000/svg"}
    (policy,) = (a["content"] for _, a in page.tags if "content-security" in str(a).lower())
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_report_replaces_the_old_one_whole(tmp_path: pathlib.Path) -> None:
    learned(tmp_path)
    (tmp_path / "report.html").write_text("old")
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert not list(tmp_path.glob(".*"))


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: pathlib.Path) -> None:
    learned(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: cannot be written \(.+\)") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "</pre></div><img src=x onerror=alert(1)>",
        "<answer><b onmouseover=alert(1)>2</b></answer>",
        '" onload="alert(1)',
        "<!-- ]]> </script> <style>*{display:none}</style>",
        "\x00\x1b[31m\u202egnirts\ud800",
    ],
)
def test_untrusted_text_stays_text(tmp_path: pathlib.Path, evil: str) -> None:
    learned(tmp_path)
    plain = len(read_page(tmp_path).tags)
    write_lines(
        tmp_path / "completions.jsonl",
        [sample_record(step, prompt=evil, completion=evil) for step in (0, 39)],
    )
    config = {"name": evil, "rl": {"steps": STEPS}, evil: {"a": evil}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    extra = [{"phase": "rl", "step": STEPS + i, f"rewards/{evil}/mean": i} for i in range(2)]
    extra += [{"phase": evil, "step": i, "loss": i, evil: i} for i in range(2)]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in extra)
    page = read_page(tmp_path)
    kinds = {tag for tag, _ in page.tags}
    assert not {"img", "b onmouseover"} & kinds
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert [a for a in scripts if a.get("type") != "application/json"] == [{}]
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    assert len(page.tags) > plain / 2
    assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", (tmp_path / "report.html").read_text())
    if evil.isprintable():
        assert page.text.count(evil) >= 4


def test_a_control_does_not_pass_and_is_not_scolded(tmp_path: pathlib.Path) -> None:
    page = read_page(flat(tmp_path))
    assert page.text.startswith("a_run") or "With random rewards (the control)" in page.text
    assert "FAIL, AS EXPECTED" in page.text
    assert "passes both" not in page.text
    badges = [attrs["class"] for _, attrs in page.tags if "badge" in str(attrs.get("class"))]
    assert "badge fail" not in badges[:2]


def test_a_control_that_drifts_still_does_not_pass(tmp_path: pathlib.Path) -> None:
    verdict = report_verdict.rise_together(read_run(flat(tmp_path, drift=0.3)))
    assert verdict.state == "FAIL"
    failed = [check.text for check in verdict.checks if not check.passed]
    assert len(failed) == 1
    assert "reward" in failed[0]


def test_longer_but_no_better_fails(tmp_path: pathlib.Path) -> None:
    accuracy = curve(0.3, 0.32)
    write_run(tmp_path, rl_records(accuracy, curve(6, 30), curve(0.3, 0.6)))
    (tmp_path / "summary.json").unlink()
    verdict = report_verdict.rise_together(read_run(tmp_path))
    assert (verdict.state, verdict.expected) == ("FAIL", False)
    assert "passes one of the two tests" in read_page(tmp_path).text


def test_better_but_not_longer_fails(tmp_path: pathlib.Path) -> None:
    accuracy = curve(0.2, 0.9)
    write_run(tmp_path, rl_records(accuracy, curve(8, 8.2), accuracy))
    assert states(read_run(tmp_path))[0] == "FAIL"


def test_a_rise_within_the_scatter_is_no_rise(tmp_path: pathlib.Path) -> None:
    accuracy, scatter = curve(0.2, 0.95), np.tile([-1.0, 1.0], STEPS // 2)
    reward = 0.5 + 0.1 * scatter + 0.001 * np.arange(STEPS)
    run = read_run(write_run(tmp_path, rl_records(accuracy, curve(6, 13), reward)))
    verdict = report_verdict.rise_together(run)
    assert verdict.state == "FAIL"
    assert ["reward" in check.text for check in verdict.checks if not check.passed] == [True]


def test_the_run_is_about_its_rl_steps_however_few(tmp_path: pathlib.Path) -> None:
    records = [{"phase": "pretrain", "step": i, "loss": 1.0} for i in range(50)]
    records += [{"phase": "rl", "step": i, "loss": 0.1} for i in range(2)]
    assert read_run(write_run(tmp_path, records)).main == "rl"
    assert "in 2 RL steps" in read_page(tmp_path).text


def test_both_rise_but_not_together(tmp_path: pathlib.Path) -> None:
    accuracy = np.linspace(0.2, 0.9, STEPS)
    length = np.append(np.full(4, 6.0), np.linspace(40, 12, STEPS - 4))
    verdict = report_verdict.rise_together(
        read_run(write_run(tmp_path, rl_records(accuracy, length, accuracy)))
    )
    assert verdict.state == "FAIL"
    assert [c.text[:16] for c in verdict.checks if not c.passed] == ["Rank correlation"]


def test_held_out_accuracy_must_rise_too(tmp_path: pathlib.Path) -> None:
    learned(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["after"]["accuracy"] = 0.2
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert states(read_run(tmp_path))[0] == "FAIL"


def test_what_cannot_be_told_is_not_called_failed(tmp_path: pathlib.Path) -> None:
    accuracy = curve(0.2, 0.95)
    records = rl_records(accuracy, curve(6, 13), accuracy)
    # Too short, still going on, and good from the start.
    assert states(read_run(write_run(tmp_path, records[:5]))) == ("CANNOT TELL", "CANNOT TELL")
    (tmp_path / "summary.json").unlink()
    level = rl_records(curve(0.2, 0.2), curve(6, 6), curve(0.2, 0.2))
    going_on = {"rl": {"steps": 1000}}
    (tmp_path / "config.json").write_text(json.dumps(going_on))
    write_lines(tmp_path / "metrics.jsonl", level)
    assert states(read_run(tmp_path))[0] == "CANNOT TELL"
    assert "40 of 1,000 RL steps are logged" in read_page(tmp_path).text
    (tmp_path / "config.json").unlink()
    good = rl_records(curve(0.97, 0.98), curve(12, 13), curve(1, 1))
    write_lines(tmp_path / "metrics.jsonl", good)
    assert states(read_run(tmp_path))[0] == "CANNOT TELL"


@pytest.mark.parametrize(
    ("with_it", "without", "share", "state"),
    [
        (0.9, 0.2, 0.5, "PASS"),
        (0.2, 0.9, 0.5, "FAIL"),
        (0.5, 0.5, 0.5, "FAIL"),
        (0.9, 0.2, 1.0, "CANNOT TELL"),
        (None, 0.2, 0.0, "CANNOT TELL"),
    ],
)
def test_does_reasoning_pay(
    tmp_path: pathlib.Path, with_it: float | None, without: float, share: float, state: str
) -> None:
    records = rl_records(curve(0.5, 0.5), curve(6, 6), curve(0.5, 0.5))
    for record in records:
        record["accuracy_with_reasoning"] = with_it
        record["accuracy_without_reasoning"] = without
        record["reasoning_share"] = share
    assert states(read_run(write_run(tmp_path, records)))[1] == state


def test_the_weighted_gap_is_that_of_the_definition() -> None:
    with_it, without = np.array([1.0, 0.8, np.nan]), np.array([0.2, 0.6, 0.5])
    gap, error, steps = report_verdict.weighted_gap(with_it, without, np.array([0.5, 0.1, 0.0]))
    weights = np.array([0.25, 0.09]) / 0.34
    assert gap == pytest.approx(weights @ [0.8, 0.2])
    assert steps == pytest.approx(1 / (weights @ weights))
    assert error > 0
    # Equal weights: the usual standard error of a mean.
    values = np.array([0.1, 0.5, 0.3, 0.7])
    gap, error, steps = report_verdict.weighted_gap(values, np.zeros(4), np.full(4, 0.5))
    assert (gap, steps) == (pytest.approx(0.4), pytest.approx(4))
    assert error == pytest.approx(values.std(ddof=1) / 2)


def test_rank_correlation_with_ties() -> None:
    a, b = np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 3.0, 3.0, 9.0])
    assert report_verdict.rank_correlation(a, b) == pytest.approx(1)
    assert report_verdict.rank_correlation(a, -b) == pytest.approx(-1)
    assert report_verdict.rank_correlation(a, np.ones(4)) == 0


@pytest.mark.parametrize("missing", ["config.json", "summary.json", "completions.jsonl"])
def test_a_missing_file_is_one_note(tmp_path: pathlib.Path, missing: str) -> None:
    (learned(tmp_path) / missing).unlink()
    assert f"there is no {missing}" in read_page(tmp_path).text


@pytest.mark.parametrize("name", ["config.json", "summary.json", "completions.jsonl"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a": ', "\x00\xff", "[" * 5000])
def test_a_damaged_file_does_not_hide_the_rest(
    tmp_path: pathlib.Path, name: str, content: str
) -> None:
    (learned(tmp_path) / name).write_bytes(content.encode("latin-1"))
    page = read_page(tmp_path)
    assert "Accuracy and response length" in page.text
    if content:
        assert "could not be read" in page.text


def test_a_run_that_was_killed(tmp_path: pathlib.Path) -> None:
    learned(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-40])
    for name in ("summary.json", "completions.jsonl"):
        (tmp_path / name).unlink()
    text = read_page(tmp_path).text
    assert "39 of 40 RL steps are logged" in text
    assert "1 line of metrics.jsonl could not be read" in text
    assert "Accuracy in training went from" in text


def test_a_step_logged_twice_counts_once(tmp_path: pathlib.Path) -> None:
    records = [{"phase": "rl", "step": s, "loss": v} for s, v in ((0, 1), (1, 9), (1, 2), (0, 5))]
    table = read_run(write_run(tmp_path, records)).table
    np.testing.assert_array_equal(table.steps, [0, 1])
    np.testing.assert_array_equal(table.columns["loss"], [5, 2])


def test_odd_records_are_left_out(tmp_path: pathlib.Path) -> None:
    odd = [
        {"phase": "rl", "step": 0, "loss": "high", "entropy": [1], "accuracy": True, "reward": 1},
        {"phase": "rl", "step": 1, "loss": None, "entropy": 10**400, "reward": float("inf")},
        {"phase": "rl", "step": 2, "reward": float("nan"), "grad_norm": 1e308},
        {"phase": "rl", "step": 10**30, "reward": 1},
        {"phase": "rl", "step": True, "reward": 1},
        {"phase": ["rl"], "step": 3, "reward": 1},
        {"step": 3},
        {},
        7,
    ]
    table = read_run(write_run(tmp_path, odd)).table
    assert len(table.steps) == 3
    assert {name for name in table.columns if table.get(name) is not None} == {"reward"}
    assert "Reward" in read_page(tmp_path).text


def test_runs_of_other_kinds_have_pages(tmp_path: pathlib.Path) -> None:
    sft = [{"phase": "sft", "step": i, "loss": 2 - 0.1 * i, "grad_norm": 1.0} for i in range(9)]
    text = read_page(write_run(tmp_path / "sft", sft)).text
    assert "Loss and gradient norm" in text
    assert "CANNOT TELL" in text
    ppo = [
        {"phase": "ppo", "step": i, "reward": i, "value/loss": 1 / (i + 1), "kl": 0.01 * i}
        for i in range(30)
    ]
    write_run(tmp_path / "ppo", ppo)
    (tmp_path / "ppo/summary.json").unlink()
    text = read_page(tmp_path / "ppo").text
    assert "Reward went from 1 to 28, in 30 PPO steps" in text
    assert "value/loss" in text
    assert "Not in this run's files: accuracy, reasoning or not" in text
    evaluation = [{"phase": "evaluate_before", "step": 0, "greedy_accuracy": 0.5}]
    write_run(tmp_path / "eval", evaluation)
    (tmp_path / "eval/summary.json").unlink()
    text = read_page(tmp_path / "eval").text
    assert "accuracy, greedy" in text
    assert "Nothing that this page knows was measured." in text
    base = [{"phase": "pretrain", "step": i, "loss": 1.0 / i} for i in range(49, 900, 50)]
    write_run(tmp_path / "base", base)
    (tmp_path / "base/summary.json").unlink()
    assert "in 900 pre-training steps." in read_page(tmp_path / "base").text


def test_evaluations_come_from_the_metrics_where_there_is_no_summary(
    tmp_path: pathlib.Path,
) -> None:
    accuracy = curve(0.2, 0.95)
    records = [
        {"phase": "evaluate_before", "step": 0, "greedy_accuracy": 0.125, "mean_length": 5.0},
        *rl_records(accuracy, curve(6, 13), accuracy),
        {"phase": "evaluate_after", "step": 0, "greedy_accuracy": 0.75, "mean_length": 15.0},
    ]
    write_run(tmp_path, records)
    (tmp_path / "summary.json").unlink()
    text = read_page(tmp_path).text
    assert "Greedy accuracy went from 0.12 to 0.75 and responses from 5.0 to 15.0 tokens" in text


@pytest.mark.parametrize("content", [None, "", "\n", "not json\n", '{"phase": "rl"}\n'])
def test_no_metrics_is_a_users_error(tmp_path: pathlib.Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match="metrics") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_no_workdir_is_a_users_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_long_run_is_a_small_page(tmp_path: pathlib.Path) -> None:
    steps = 100_000
    names = [plan_line.metric for plan in LEARNING for plan_line in plan.lines]
    names = [name.replace("*", "x") for name in dict.fromkeys(names)]
    names = [*names[:12], "loss", "time/rollout", "time/update"]
    body = ",".join(f'"{name}":%s' for name in names)
    values = np.random.default_rng(0).random(997).round(4).astype(str).tolist()
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(steps):
            row = tuple(values[(step * 7 + i) % 997] for i in range(len(names)))
            file.write(f'{{"phase":"rl","step":{step},{body % row}}}\n')
        # Names without end: a page cannot show them all.
        extra = {f"extra/{i}": i for i in range(3 * OTHERS)}
        for step in (steps, steps + 1):
            record = {"phase": "rl", "step": step} | {name: step + i for name, i in extra.items()}
            file.write(json.dumps(record) + "\n")
    write_lines(
        tmp_path / "completions.jsonl",
        (sample_record(s, completion="x" * 20_000) for s in range(0, steps, 1000)),
    )
    path = write_report(tmp_path)
    assert path.stat().st_size < 2e6
    page = Page(path.read_text())
    assert "band" in {
        str(attrs.get("class")).split()[0] for tag, attrs in page.tags if tag == "path"
    }
    assert "more in metrics.jsonl" in page.text
    assert "characters left out" in page.text
    assert "Early · step 0" in page.text
    assert "Late · step 99,000" in page.text


def make_sample(step: int, prompt: str, completion: str = "a") -> Sample:
    return Sample(step, prompt, completion, 1.0, True, 3, {})


def test_early_and_late_are_the_quarters_of_a_run(tmp_path: pathlib.Path) -> None:
    write_lines(tmp_path / "c.jsonl", [sample_record(step) for step in range(0, 100, 10)])
    early, late = report_data.read_samples(json_lines(tmp_path / "c.jsonl", []))
    assert [sample.step for sample in early] == [0, 10, 20]
    assert [sample.step for sample in late] == [90, 80, 70]
    write_lines(tmp_path / "c.jsonl", [sample_record(0), sample_record(0)])
    early, late = report_data.read_samples(json_lines(tmp_path / "c.jsonl", []))
    assert (len(early), late) == (2, ())


def test_the_same_prompt_stands_beside_itself() -> None:
    early = [make_sample(0, "1+1=?"), make_sample(0, "What is the capital of France?")]
    late = [
        make_sample(9, "zzz"),
        make_sample(9, "What is the capital of Spain?"),
        make_sample(9, "1+1=?"),
    ]
    groups = report_samples.group_samples
    pairs = report_samples.pair_groups(groups(early), groups(late))
    beside = {before[0]: after and after[0] for before, after in pairs}
    assert beside == {
        "1+1=?": "1+1=?",
        "What is the capital of France?": "What is the capital of Spain?",
    }


def test_equal_samples_are_shown_once_with_their_count() -> None:
    samples = [make_sample(0, "p", text) for text in ("a", "b", "b")]
    counted = report_data.count_equal(samples)
    assert [(sample.completion, count) for sample, count in counted] == [("b", 2), ("a", 1)]
    html = report_samples.samples_html(samples, [])
    assert "× 2" in html
    assert "Late" not in html


def test_charts_of_what_only_some_runs_do(tmp_path: pathlib.Path) -> None:
    """They are there where there are numbers, and not called missing where there are none."""
    titles = (
        "Accuracy by task",
        "Reward by task",
        "Dynamic sampling",
        "Staleness",
        "Use of the device",
        "Peak memory",
        "Speed of each device",
        "Accuracy, held out",
    )
    plain = read_page(learned(tmp_path))
    assert not [title for title in titles if title.lower() in plain.text.lower()]
    more = [
        {
            "phase": "rl",
            "step": step,
            **{f"tasks/{name}/{what}": 0.1 * step for name in "abcdefgh" for what in TASK_METRICS},
            "dynamic/accept_rate": 0.5,
            "staleness/mean": 1.0,
            "perf/mfu": 0.4,
            "memory/device_peak_gb": 70.0,
            "perf/tokens_per_second_per_device": 1000.0,
        }
        for step in range(STEPS)
    ]
    more += [
        {"phase": "evaluate", "step": step, "accuracy": 0.01 * step} for step in range(0, STEPS, 4)
    ]
    write_lines(tmp_path / "metrics.jsonl", more)
    text = read_page(tmp_path).text
    assert [title for title in titles if title not in text] == []
    assert "2 more in metrics.jsonl" in text  # tasks than a chart has colours
    assert "RL steps done 36" in text
    assert "MFU, of the peak in bfloat16 0.4" in text
    assert "fullest device 70" in text


def test_held_out_accuracy_stands_beside_the_step_it_was_measured_after(
    tmp_path: pathlib.Path,
) -> None:
    """As the loop shows it to the doctor; a run that goes on must say what one in one go says."""
    records = [{"phase": "rl", "step": step, "loss": 1.0} for step in range(6)]
    records += [{"phase": "evaluate", "step": step, "accuracy": step / 10} for step in (2, 4, 6)]
    write_lines(tmp_path / "metrics.jsonl", records)
    rows = report_data.read_rows(tmp_path)
    assert {row["step"]: row[HELD_OUT] for row in rows if HELD_OUT in row} == {
        1: 0.2,
        3: 0.4,
        5: 0.6,
    }


def test_the_figure_stands_alone(tmp_path: pathlib.Path) -> None:
    path = write_figure(learned(tmp_path), tmp_path / "figure.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"accuracy", "response length, tokens", "RL step"} <= texts
    write_lines(tmp_path / "metrics.jsonl", [{"phase": "rl", "step": 0, "loss": 1.0}])
    with pytest.raises(UserError, match="no accuracy"):
        write_figure(tmp_path, path)


def test_the_report_does_not_import_jax() -> None:
    code = "import sys, r1jax.monitor.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
