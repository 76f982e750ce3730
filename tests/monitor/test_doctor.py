"""Each finding on a log that shows it and on a near miss; silence on recorded healthy runs."""

import json
import math
import pathlib
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax import config as config_lib
from r1jax.cli.main import main
from r1jax.errors import UserError
from r1jax.monitor import doctor
from r1jax.monitor.report import write_report
from r1jax.monitor.report_data import read_rows

DATA = pathlib.Path(__file__).parent / "data"
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "doctor.md"
STEPS = 40
HEALTHY = {
    "loss": 0.01,
    "grad_norm": 0.3,
    "entropy": 0.4,
    "ratio/mean": 1.0,
    "accuracy": 0.4,
    "completions/clipped_ratio": 0.02,
    "completions/mean_length": 100.0,
    "dynamic/accept_rate": 0.5,
    "frac_reward_zero_std": 0.2,
    "reward": 0.5,
    "reward_std": 0.3,
    "reward/masked": 0.0,
    "rewards/format/mean": 0.9,
    "sampling/sampling_logp_difference/mean": 1e-6,
}


def log(late: dict, *, begins: int = 30, **early: float) -> list[dict]:
    """Even rows with a little scatter; what is `late` from the step where it begins."""
    scatter = [1 + 0.01 * math.sin(7.0 * i) for i in range(STEPS)]
    rows = []
    for i in range(STEPS):
        row = {k: v * scatter[i] if v != 1.0 else v for k, v in HEALTHY.items()}
        rows.append({"step": i, **row, **early, **(late if i >= begins else {})})
    return rows


def ramp(**to: float) -> list[dict]:
    """Rows in which some metrics go evenly from the healthy value to another."""
    rows = log({})
    for i, row in enumerate(rows):
        for name, end in to.items():
            name = {"accept": "dynamic/accept_rate", "length": "completions/mean_length"}.get(
                name, name
            )
            row[name] = HEALTHY[name] + (end - HEALTHY[name]) * i / (STEPS - 1)
    return rows


def short(name: str, value: float) -> list[dict]:
    """One step less than counts."""
    return log({name: value}, begins=STEPS - 4)


CLIPPED, ZERO, GAP = (
    "completions/clipped_ratio",
    "frac_reward_zero_std",
    "sampling/sampling_logp_difference/mean",
)
STUCK = {"entropy": 0.01, ZERO: 0.85}
SHOWN = {
    "not_finite": ("stop", 30, log({"grad_norm": math.nan})),
    "equal_rewards": ("stop", 30, log({ZERO: 1.0, "advantages/zero": 1.0})),
    "truncated": ("warn", 30, log({CLIPPED: 0.2})),
    "format_zero": ("warn", 30, log({"rewards/format/mean": 0.0})),
    "entropy_collapse": ("stop", 30, log(STUCK)),
    "ratio_out_of_bounds": ("stop", 30, log({"ratio/mean": 2.1})),
    "sampler_gap": ("stop", 30, log({GAP: 0.06})),
    "loss_zero": ("stop", 30, log({"loss": 0.0, "grad_norm": 0.0})),
    "grading_failures": ("warn", 30, log({"reward/masked": 0.2, "grading/timeout": 9})),
    "accept_rate_falling": ("stop", 30, log({"dynamic/accept_rate": 0.05})),
    "length_explosion": ("warn", 0, ramp(length=400.0)),
    "hacking": ("stop", 0, ramp(reward=0.9, accuracy=0.2)),
}
NEAR_MISSES = {
    "not_finite": [log({"accuracy_with_reasoning": math.nan}), log({"grad_norm": 1e9})],
    # rewards of steps differ where those of responses do not; a critic needs no groups
    "equal_rewards": [
        log({ZERO: 0.99}),
        short(ZERO, 1.0),
        log({ZERO: 1.0, "advantages/zero": 0.9}),
        log({ZERO: 1.0, "value/loss": 0.1}),
    ],
    "truncated": [log({CLIPPED: 0.14}), short(CLIPPED, 0.5)],
    "format_zero": [log({"rewards/format/mean": 0.001}), short("rewards/format/mean", 0.0)],
    # sure and right; sure, but groups still differ
    "entropy_collapse": [log({**STUCK, "accuracy": 0.95}), log({"entropy": 0.01})],
    "ratio_out_of_bounds": [log({"ratio/mean": 1.9}), log({"ratio/mean": 0.6})],
    "sampler_gap": [log({GAP: 0.04}), short(GAP, 1.0)],
    # on the first update of a step a loss of 0 is right: its gradient is not 0
    "loss_zero": [log({"loss": 0.0}), log({"grad_norm": 0.0})],
    # the overlong filter masks what was cut
    "grading_failures": [log({"reward/masked": 0.12, CLIPPED: 0.12}), log({"reward/masked": 0.09})],
    "accept_rate_falling": [log({"dynamic/accept_rate": 0.3}), ramp(accept=0.4)],
    "length_explosion": [ramp(length=400.0, accuracy=0.6), ramp(length=130.0)],
    "hacking": [ramp(reward=0.9), ramp(accuracy=0.2), ramp(reward=0.9, accuracy=0.38)],
}


@pytest.mark.parametrize("name", doctor.NAMES)
def test_a_log_that_shows_it(name):
    severity, began, rows = SHOWN[name]
    (finding,) = [f for f in doctor.examine(rows) if f.name == name]
    assert (finding.severity, finding.began, finding.ended) == (severity, began, None)
    assert name in {f.name for f in doctor.diagnose(rows)}
    assert finding.seen.endswith(".")
    assert any(c.isdigit() for c in finding.seen)
    assert finding.advice


@pytest.mark.parametrize("name", doctor.NAMES)
def test_a_near_miss(name):
    for rows in NEAR_MISSES[name]:
        assert name not in {f.name for f in doctor.examine(rows)}


def test_nothing_is_found_in_an_even_log():
    assert doctor.examine(log({})) == ()


@pytest.mark.parametrize("name", ["healthy", "control"])
def test_recorded_runs_are_without_findings(name, tmp_path):
    shutil.copy(DATA / f"{name}_rl.jsonl", tmp_path / "metrics.jsonl")
    rows = read_rows(tmp_path)
    assert len(rows) == 80
    assert doctor.HELD_OUT in rows[0]
    assert doctor.HELD_OUT in rows[-1]
    for end in range(1, len(rows) + 1):
        assert doctor.diagnose(rows[:end]) == ()
    assert doctor.examine(rows) == ()


def test_more_is_worse_and_a_solved_task_is_no_illness():
    def severity(name, late):
        return next(f.severity for f in doctor.diagnose(log(late)) if f.name == name)

    assert severity("truncated", {CLIPPED: 0.99}) == "stop"
    assert severity("grading_failures", {"reward/masked": 0.6}) == "stop"
    assert severity("format_zero", {"rewards/format/mean": 0.0, "accuracy": 0.0}) == "stop"
    assert severity("equal_rewards", {ZERO: 1.0, "accuracy": 1.0}) == "warn"


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        ({ZERO: 1.0}, "all rewards were equal"),
        ({"reward/masked": 1.0}, "masked"),
        ({CLIPPED: 1.0}, "cut"),
        ({"dynamic/accept_rate": 0.0}, "no group"),
        ({}, "elsewhere"),
    ],
)
def test_a_loss_of_0_has_its_reason(late, reason):
    findings = doctor.diagnose(log({"loss": 0.0, "grad_norm": 0.0, **late}))
    assert reason in next(f.seen for f in findings if f.name == "loss_zero")


def test_held_out_accuracy_tells_hacking_too():
    rows = ramp(reward=0.9)
    rows[3][doctor.HELD_OUT], rows[-1][doctor.HELD_OUT] = 0.5, 0.4
    assert [f.name for f in doctor.examine(rows)] == ["hacking"]
    rows[-1][doctor.HELD_OUT] = 0.46
    assert doctor.examine(rows) == ()


def test_one_bad_measurement_among_many_is_no_fall():
    rows = ramp(reward=0.9)
    for at, accuracy in zip((3, 9, 15, -1), (0.5, 0.52, 0.51, 0.3), strict=True):
        rows[at][doctor.HELD_OUT] = accuracy
    assert doctor.examine(rows) == ()
    rows[15][doctor.HELD_OUT] = 0.4
    assert [f.name for f in doctor.examine(rows)] == ["hacking"]


def test_what_is_over_is_told_and_stops_nothing():
    rows = log({ZERO: 1.0}, begins=10)
    for row in rows[20:]:
        row[ZERO] = 0.2
    (finding,) = doctor.examine(rows)
    assert (finding.began, finding.ended) == (10, 20)
    assert "over at step 20" in finding.text
    assert not doctor.is_ill((finding,))


def test_a_trend_too_slow_for_the_window_is_found_in_the_whole_log():
    rows = [
        {**HEALTHY, "step": i, "reward": 0.5 + 2e-4 * i, "accuracy": 0.4 - 2e-4 * i}
        for i in range(1000)
    ]
    assert doctor.diagnose(rows) == ()
    assert [f.name for f in doctor.examine(rows)] == ["hacking"]


VALUES = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=2))
KEYS = st.sampled_from([*doctor.WATCHED, "step", "other"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=12), max_size=8), st.integers(1, 9))
def test_it_never_raises(rows, times):
    rows = [{"step": i, **row} for i, row in enumerate(rows * times)]
    for findings in (doctor.diagnose(rows), doctor.examine(rows)):
        json.dumps([f.text for f in findings])
    doctor.examine([{k: v for k, v in row.items() if k != "step"} for row in rows])


def write_log(workdir: pathlib.Path, rows: list[dict]) -> None:
    lines = [json.dumps({"phase": "rl", **row}) for row in rows]
    (workdir / "metrics.jsonl").write_text("\n".join([*lines, '{"cut off']))


def test_the_command(tmp_path, capsys):
    write_log(tmp_path, log({}))
    assert main(["doctor", str(tmp_path)]) == 0
    assert "healthy" in capsys.readouterr().out
    write_log(tmp_path, log({CLIPPED: 0.2}))
    assert main(["doctor", str(tmp_path)]) == 0  # a warning
    assert "truncated (warn, since step 30): 20% of" in capsys.readouterr().out
    write_log(tmp_path, log({ZERO: 1.0}))
    assert main(["doctor", str(tmp_path), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["name"], finding["began"], finding["ended"]) == ("equal_rewards", 30, None)
    write_report(tmp_path)
    assert "equal rewards, since step 30" in (tmp_path / "report.html").read_text()


def test_a_batch_kept_for_inspection_is_a_step_that_was_not_finite(tmp_path, capsys):
    write_log(tmp_path, log({}))
    (tmp_path / "nonfinite_rl_12.npz").touch()  # the run has since gone on
    assert main(["doctor", str(tmp_path)]) == 0
    (tmp_path / "nonfinite_rl_40.npz").touch()
    assert main(["doctor", str(tmp_path)]) == 1
    assert "not_finite (stop, since step 40)" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    write_log(tmp_path, [])
    assert main(["doctor", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_names_to_stop_on_are_checked():
    config = config_lib.override({}, {"logging.stop_on": "hacking,truncated"})
    assert config.logging.stop_on == ("hacking", "truncated")
    with pytest.raises(UserError, match=r"logging\.stop_on: unknown hackin; known: not_finite, eq"):
        config_lib.override({}, {"logging.stop_on": "hackin,truncated"})


def test_the_table_of_the_docs_names_every_finding_and_limit():
    text = DOCS.read_text()
    for name in doctor.NAMES:
        assert f"| `{name}` |" in text
    for name, (value, reason) in doctor.LIMITS.items():
        assert f"| {name} | {value:.3g} | {reason} |" in text
