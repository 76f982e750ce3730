"""What a run shows, in words: one sentence, and two tests of a real reproduction of R1-Zero."""

import dataclasses
import math
from typing import Literal

import numpy as np

from r1jax.monitor.progress import seconds_text
from r1jax.monitor.report_data import Run, Table
from r1jax.monitor.scales import number_text, share_text, signed_text

RISE = 0.10  # of accuracy, absolute
GROWTH = 0.20  # of length, relative
TOGETHER = 0.5  # rank correlation of accuracy and length
ERRORS = 3.0  # standard errors that a change must exceed
NO_ROOM = 1 - RISE  # accuracy that cannot rise by RISE
FEWEST_STEPS = 10
FEWEST_COMPARED = 5.0  # effective steps with samples of both kinds

State = Literal["PASS", "FAIL", "CANNOT TELL"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One piece of evidence and whether it is as the rule asks."""

    text: str
    passed: bool


@dataclasses.dataclass(frozen=True)
class Verdict:
    title: str
    state: State
    reason: str  # one sentence: what decided
    rule: str  # exactly what was asked
    checks: tuple[Check, ...] = ()
    expected: bool = False  # a control is meant to fail


@dataclasses.dataclass(frozen=True)
class Change:
    """From the first steps to the last, with the standard error of the difference."""

    first: float
    last: float
    error: float

    @property
    def rise(self) -> float:
        return self.last - self.first

    @property
    def sure(self) -> bool:
        return self.rise > ERRORS * self.error


def headline(run: Run) -> str:
    """What changed, from where to where, in how many steps and seconds."""
    before, after = run.evaluation("before"), run.evaluation("after")
    changes = []
    for key, label in (("greedy_accuracy", "greedy accuracy"), ("accuracy", "accuracy")):
        if key in before and key in after:
            changes.append(f"{label} went from {before[key]:.2f} to {after[key]:.2f}")
            break
    if changes and "mean_length" in before and "mean_length" in after:
        changes.append(lengths_text(before["mean_length"], after["mean_length"]))
    if not changes:
        changes = _training_changes(run.table)
    who = "With random rewards (the control), " if run.control else ""
    what = " and ".join(changes) or "nothing that this page knows was measured"
    sentence = f"{who}{what}{_span(run)}."
    return sentence[0].upper() + sentence[1:]


def _span(run: Run) -> str:
    """In how many steps and seconds; nothing where there were no steps."""
    if run.main.startswith("evaluate"):
        return ""
    steps, took = int(run.table.steps[-1]) + 1, seconds_taken(run)
    span = f", in {steps:,} {phase_name(run.main)} step{'s' * (steps != 1)}"
    return span if took is None else f"{span} and {seconds_text(took)}"


def _training_changes(table: Table) -> list[str]:
    """Without evaluations: first and last steps of what training itself measured."""
    known = {
        "accuracy": "accuracy in training went from {:.2f} to {:.2f}",
        "reward": "reward went from {:.3g} to {:.3g}",
        "loss": "loss went from {:.3g} to {:.3g}",
    }
    name = next((name for name in known if table.get(name) is not None), None)
    if name is None:
        return []
    texts = []
    change = compute_change(table.get(name))
    if change is not None:
        texts.append(known[name].format(change.first, change.last))
    change = compute_change(table.get("completions/mean_length"))
    if change is not None:
        texts.append(lengths_text(change.first, change.last))
    return texts


def lengths_text(first: float, last: float) -> str:
    decimals = 1 if max(first, last) < 100 else 0
    return f"responses from {first:,.{decimals}f} to {last:,.{decimals}f} tokens"


def phase_name(phase: str) -> str:
    return {"rl": "RL", "sft": "SFT", "ppo": "PPO", "dpo": "DPO", "pretrain": "pre-training"}.get(
        phase, phase
    )


def seconds_taken(run: Run) -> float | None:
    """Of the whole run; compiling is part of the other phases, not one more."""
    seconds = run.summary.get("seconds")
    if isinstance(seconds, dict):
        known = [v for k, v in seconds.items() if k != "compile" and isinstance(v, int | float)]
        if known:
            return float(sum(known))
    steps = run.table.get("step_time")
    return None if steps is None else float(np.nansum(steps))


def overall(run: Run, tests: tuple[Verdict, ...]) -> str:
    """The two tests in one sentence, fair to a control and to a run that is not over."""
    passed = sum(test.state == "PASS" for test in tests)
    if passed == len(tests):
        text = "It passes both tests of a real reproduction."
        return text + " A control should not: look at it closely." if run.control else text
    if run.control and tests[0].state == "FAIL":
        return (
            "It is the control: with random rewards it must not pass the first test, and does not."
        )
    if any(test.state == "FAIL" for test in tests):
        return (
            f"It passes {'one' if passed else 'neither'} of the two tests of a real reproduction."
        )
    if passed:
        return "It passes one of the two tests of a real reproduction; the other cannot be told."
    return "Whether it is a real reproduction cannot be told from these files."


def rise_together(run: Run) -> Verdict:
    """Accuracy must rise together with length, because of the reward and not beside it."""
    title = "Accuracy rises together with length"
    rule = (
        f"From the first to the last tenth of the steps, accuracy rises by at least {RISE:.2f}, "
        f"length by at least {GROWTH:.0%}, and the reward rises too, each by more than {ERRORS:g} "
        "standard errors of the steps' scatter; held-out accuracy and length, where measured, rise "
        "by as much; and over 20 equal stretches of the run the rank correlation of accuracy and "
        f"length is at least {TOGETHER:g}."
    )
    table = run.table
    accuracy, length = table.get("accuracy"), table.get("completions/mean_length")
    if accuracy is None or length is None:
        missing = "accuracy" if accuracy is None else "length"
        return Verdict(title, "CANNOT TELL", f"The metrics hold no {missing} by step.", rule)
    if len(table.steps) < FEWEST_STEPS:
        reason = f"Only {len(table.steps)} steps are logged; {FEWEST_STEPS} are the least."
        return Verdict(title, "CANNOT TELL", reason, rule)
    checks = (*_training_checks(table, accuracy, length), *_held_out_checks(run))
    failed = [check for check in checks if not check.passed]
    if not failed:
        return Verdict(title, "PASS", "Both rose, together, with the reward.", rule, checks)
    start = compute_change(accuracy)
    if start is not None and start.first > NO_ROOM:
        reason = f"Accuracy began at {start.first:.2f}: there was no room for such a rise."
        return Verdict(title, "CANNOT TELL", reason, rule, checks)
    if run.steps_left:
        reason = f"{run.steps_left:,} steps are still to come; not so far."
        return Verdict(title, "CANNOT TELL", reason, rule, checks)
    reason = "Not all of it is so."
    if run.control:
        reason = "The rewards were random: there was nothing to learn."
    return Verdict(title, "FAIL", reason, rule, checks, expected=run.control)


def _training_checks(table: Table, accuracy: np.ndarray, length: np.ndarray) -> list[Check]:
    checks = []
    for label, values, least, relative in (
        ("accuracy", accuracy, RISE, False),
        ("length", length, GROWTH, True),
        ("reward", table.get("reward"), 0.0, False),
    ):
        change = compute_change(values)
        if change is None:
            continue
        enough = change.rise >= least * (change.first if relative else 1.0) and change.sure
        ends = f"{number_text(change.first)} → {number_text(change.last)}"
        size = f"{signed_text(change.rise, 2)} ± {number_text(change.error, 2)}"
        checks.append(Check(f"In training, {label} {ends} ({size})", enough))
    together = rank_correlation(stretches(accuracy), stretches(length))
    text = f"Rank correlation of accuracy and length {together:.2f}"
    checks.append(Check(text, together >= TOGETHER))
    return checks


def _held_out_checks(run: Run) -> list[Check]:
    before, after = run.evaluation("before"), run.evaluation("after")
    checks = []
    for key, label, least, relative in (
        ("accuracy", "accuracy", RISE, False),
        ("mean_length", "length", GROWTH, True),
    ):
        if key in before and key in after:
            needed = least * (before[key] if relative else 1.0)
            ends = f"{number_text(before[key])} → {number_text(after[key])}"
            checks.append(Check(f"Held out, {label} {ends}", after[key] - before[key] >= needed))
    return checks


def reasoning_pays(run: Run) -> Verdict:
    """Samples that reason must be more accurate than those that do not, on the same prompts."""
    title = "Samples that reason are more accurate"
    rule = (
        "Within each step, accuracy of the samples with reasoning minus that of those without: "
        "same policy, same prompts. The mean over steps, weighted by share × (1 − share) of "
        "samples that reason, lies more than two standard errors (of the steps' scatter) above 0. "
        "Samples are pooled over a step's prompts, so reasoning mostly on easy prompts flatters it."
    )
    table = run.table
    names = ("accuracy_with_reasoning", "accuracy_without_reasoning", "reasoning_share")
    columns = [table.get(name) for name in names]
    if any(column is None for column in columns):
        reason = "The metrics do not tell samples with reasoning from those without."
        if all(column is not None for column in columns[::2]):
            reason = "Every sample reasons: there is nothing to compare with."
        return Verdict(title, "CANNOT TELL", reason, rule)
    gap, error, compared = weighted_gap(*(np.asarray(column) for column in columns))
    checks = _reasoning_evidence(run)
    if compared < FEWEST_COMPARED:
        reason = "Too few steps have samples of both kinds."
        return Verdict(title, "CANNOT TELL", reason, rule, checks)
    size = f"{signed_text(gap)} ± {2 * error:.3f} (two standard errors)"
    if gap - 2 * error > 0:
        note = " The base model already had this." if run.control else ""
        return Verdict(title, "PASS", f"Reasoning changes accuracy by {size}.{note}", rule, checks)
    if gap + 2 * error < 0 or 2 * error < 0.05:
        return Verdict(title, "FAIL", f"Reasoning changes accuracy by {size}.", rule, checks)
    return Verdict(title, "CANNOT TELL", f"The difference, {size}, is too uncertain.", rule, checks)


def _reasoning_evidence(run: Run) -> tuple[Check, ...]:
    """The evaluations' own comparison, on held-out prompts."""
    checks = []
    for when in ("before", "after"):
        numbers = run.evaluation(when)
        pair = [numbers.get(f"accuracy_{kind}_reasoning") for kind in ("with", "without")]
        if pair[0] is None or pair[1] is None:
            continue
        share = numbers.get("reasoning_share")
        reasons = "" if share is None else f" ({share:.1%} of the samples reason)"
        text = (
            f"Held out, {when}: {share_text(pair[0])} with, {share_text(pair[1])} without{reasons}"
        )
        checks.append(Check(text, pair[0] > pair[1]))
    return tuple(checks)


def weighted_gap(
    with_it: np.ndarray, without: np.ndarray, share: np.ndarray
) -> tuple[float, float, float]:
    """Mean difference over steps, its standard error, and the effective number of steps.

    The weight share * (1 - share) is the inverse variance of a step's difference, up to a factor;
    the error comes from the scatter between steps, so samples of a prompt may be alike.
    """
    known = np.isfinite(with_it) & np.isfinite(without) & np.isfinite(share)
    weights = (share * (1 - share))[known].clip(0)
    if not weights.sum() > 0:
        return math.nan, math.nan, 0.0
    weights = weights / weights.sum()
    gaps = (with_it - without)[known]
    gap = float(weights @ gaps)
    steps = float(1 / (weights @ weights))
    error = math.sqrt(float(weights**2 @ (gaps - gap) ** 2) * steps / max(steps - 1, 1e-9))
    return gap, error, steps


def compute_change(values: np.ndarray | None) -> Change | None:
    """Means of the first and last tenth of the steps (three at least)."""
    if values is None:
        return None
    known = values[np.isfinite(values)]
    count = min(max(3, len(known) // 10), len(known))
    if not count:
        return None
    first, last = known[:count], known[-count:]
    spread = [part.var(ddof=1) / count if count > 1 else 0.0 for part in (first, last)]
    return Change(float(first.mean()), float(last.mean()), math.sqrt(float(sum(spread))))


def stretches(values: np.ndarray, most: int = 20) -> np.ndarray:
    """Means over equal stretches of a run."""
    with np.errstate(invalid="ignore"):
        return np.array(
            [
                part[np.isfinite(part)].mean() if np.isfinite(part).any() else math.nan
                for part in np.array_split(values, min(most, len(values)))
            ]
        )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of them does not vary."""
    known = np.isfinite(a) & np.isfinite(b)
    ranks = [_ranks(values[known]) for values in (a, b)]
    if known.sum() < 2 or any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
