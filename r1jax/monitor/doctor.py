"""Why a run is failing, in words, from the numbers that it logs.

`diagnose` looks at the last steps of a log, as the loop does after each of them; `examine` walks
through a whole log the same way. Both are pure, take rows as `metrics.jsonl` holds them (whatever
may be missing or broken in them) and never raise. Every limit is in `LIMITS`, with its reason.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

# name -> (value, where it is from). "Judgement": nobody printed it; it was set so that recorded
# healthy runs, and controls with random rewards, stay without findings.
LIMITS: Mapping[str, tuple[float, str]] = {
    "steps in a row": (5.0, "judgement: one odd step is no illness"),
    "equal groups": (1.0, "a group of equal rewards has no advantage: with all of them, no step"),
    "solved": (0.95, "judgement: with this accuracy, equal rewards mean that nothing is left"),
    "cut": (0.15, "ScaleRL (arXiv 2510.13786): above 10 to 15 % is a sign of instability"),
    "all cut": (0.95, "judgement: hardly any response comes to its answer"),
    "entropy": (0.05, "judgement, nats a token; counts only without accuracy and variety"),
    "accuracy by low entropy": (0.9, "judgement: a policy that is right may be sure"),
    "variety": (0.8, "equal groups went from .06 to .84 where a small run's entropy collapsed"),
    "ratio low": (0.5, "lower end of the band of IcePop (arXiv 2510.18855)"),
    "ratio high": (2.0, "higher end of that band, and the truncation of TIS"),
    "gap": (0.05, "judgement, nats a token; float32 on one machine logs 1e-9 to 1e-6"),
    "zero": (1e-9, "below it, a loss or a gradient is rounding"),
    "masked": (0.1, "judgement: what is graded is no longer a fair sample of what is answered"),
    "mostly masked": (0.5, "judgement: most of the sampling is thrown away"),
    "accepted": (0.1, "DAPO's script gives up after 10 batches (max_num_gen_batches)"),
    "accepted, expected": (1 / 3, "DAPO's script draws 3 times what it trains on"),
    "accepted, fall": (0.5, "judgement: half of what was accepted before"),
    "compared steps": (8.0, "judgement: at either end of the window, for a mean and its error"),
    "errors": (3.0, "standard errors that a change must exceed, as in the report's tests"),
    "growth": (1.5, "judgement: responses half as long again"),
    "accuracy gain": (0.02, "judgement: less is no gain for such growth"),
    "accuracy fall": (0.05, "judgement: more than an even run's wander"),
    "reward rise": (0.1, "judgement, in units of the spread within groups"),
}
WINDOW = 64  # steps that a diagnosis looks back
MOST_LOOKS = 2000  # at a long log; beyond, only every second, third, ... step is looked at

HELD_OUT = "held_out/accuracy"
REASONS_FOR_MASKS = tuple(
    f"grading/{name}" for name in ("gold", "timeout", "crash", "error", "infra")
)
ALWAYS_FINITE = ("loss", "policy_loss", "grad_norm", "entropy", "kl", "approx_kl", "ratio/mean")
WATCHED = (
    *ALWAYS_FINITE,
    *REASONS_FOR_MASKS,
    HELD_OUT,
    "accuracy",
    "advantages/zero",
    "completions/clipped_ratio",
    "completions/mean_length",
    "dynamic/accept_rate",
    "frac_reward_zero_std",
    "reward",
    "reward_std",
    "reward/masked",
    "rewards/format/mean",
    "sampling/sampling_logp_difference/mean",
    "value/loss",
)

Severity = Literal["warn", "stop"]
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where it began, what was seen, and what to do about it."""

    name: str
    severity: Severity
    began: int
    seen: str
    advice: str
    ended: int | None = None  # the first step looked at without it; None = it still holds

    @property
    def text(self) -> str:
        until = "" if self.ended is None else f", over at step {self.ended}"
        return f"{self.name} ({self.severity}, since step {self.began}{until}): {self.seen}"


@dataclasses.dataclass(frozen=True)
class Log:
    """Columns of the watched metrics over rising steps; NaN = not known."""

    steps: Sequence[int]
    broken: Sequence[str]  # of each step, the metrics that were logged and are not finite
    columns: Mapping[str, np.ndarray]

    def part(self, start: int, end: int) -> "Log":
        columns = {name: column[start:end] for name, column in self.columns.items()}
        return Log(self.steps[start:end], self.broken[start:end], columns)

    def last(self, name: str) -> float:
        return float(self.columns[name][-1])

    def streak(self, holds: np.ndarray, least: float | None = None) -> int | None:
        """Where the rows for which it holds without a break up to the last begin; or None."""
        misses = np.flatnonzero(~holds)
        start = int(misses[-1]) + 1 if len(misses) else 0
        enough = limit("steps in a row") if least is None else least
        return start if len(holds) - start >= enough else None


@dataclasses.dataclass(frozen=True)
class Change:
    """Means of the first and the last quarter of a window, and whether they surely differ."""

    first: float
    last: float
    sure: bool

    @property
    def rise(self) -> float:
        return self.last - self.first


Check = Callable[[Log], Finding | None]


def limit(name: str) -> float:
    return LIMITS[name][0]


def diagnose(rows: Sequence[Row]) -> tuple[Finding, ...]:
    """What holds at the last of these rows; the loop gives its last `WINDOW`."""
    log = make_log(rows[-WINDOW:])
    return _look(log) if log.steps else ()


def examine(rows: Sequence[Row]) -> tuple[Finding, ...]:
    """All that was found on the way, in the order in which it began, as the loop would have."""
    log = make_log(rows)
    count = len(log.steps)
    if not count:
        return ()
    stride = max(1, math.ceil(count / MOST_LOOKS))
    ends = sorted({*range(stride, count + 1, stride), count})
    closed: list[Finding] = []
    now: dict[str, Finding] = {}
    for end in ends:
        seen = {f.name: f for f in _look(log.part(max(0, end - WINDOW), end))}
        for name in now.keys() - seen.keys():
            closed.append(dataclasses.replace(now.pop(name), ended=log.steps[end - 1]))
        for name, finding in seen.items():
            began = min(finding.began, now.get(name, finding).began)
            now[name] = dataclasses.replace(finding, began=began)
    # A trend may be too slow for a window: once more, from the first quarter of all to the last.
    for finding in _look(log, TRENDS):
        now.setdefault(finding.name, finding)
    return tuple(sorted((*closed, *now.values()), key=lambda f: (f.began, f.name)))


def is_ill(findings: Sequence[Finding]) -> bool:
    """Whether something that should stop the run still holds."""
    return any(f.severity == "stop" and f.ended is None for f in findings)


def make_log(rows: Sequence[Row]) -> Log:
    rows = [row for row in rows if type(row.get("step")) is int]
    columns = {name: np.array([_number(row.get(name)) for row in rows]) for name in WATCHED}
    broken = [
        ", ".join(n for n in ALWAYS_FINITE if n in row and math.isnan(_number(row[n])))
        for row in rows
    ]
    return Log([row["step"] for row in rows], broken, columns)


def _number(value: Any) -> float:
    """NaN for all that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return math.nan
    try:
        number = float(value)
    except (OverflowError, TypeError):  # an int beyond float's range; a complex numpy number
        return math.nan
    return number if math.isfinite(number) else math.nan


def _look(log: Log, checks: Iterable[Check] | None = None) -> tuple[Finding, ...]:
    with np.errstate(all="ignore"):  # of numbers near float's end
        found = [check(log) for check in (CHECKS.values() if checks is None else checks)]
    return tuple(finding for finding in found if finding is not None)


def _change(column: np.ndarray) -> Change | None:
    """None where either end has too few known values to tell."""
    quarter, least = len(column) // 4, int(limit("compared steps"))
    ends = [part[np.isfinite(part)] for part in (column[:quarter], column[len(column) - quarter :])]
    if quarter < least or any(len(end) < least for end in ends):
        return None
    first, last = (float(end.mean()) for end in ends)
    error = math.sqrt(sum(float(end.var(ddof=1)) / len(end) for end in ends))
    return Change(first, last, abs(last - first) > limit("errors") * error)


def not_finite(log: Log) -> Finding | None:
    start = log.streak(np.array([bool(text) for text in log.broken]), least=1.0)
    if start is None:
        return None
    return Finding(
        "not_finite",
        "stop",
        log.steps[start],
        f"{log.broken[-1]} not finite at step {log.steps[-1]}.",
        "Go back to the last checkpoint; lower optim.lr or optim.clip_norm, or look at the batch.",
    )


def equal_rewards(log: Log) -> Finding | None:
    equal = log.columns["frac_reward_zero_std"] >= limit("equal groups")
    # Rewards of steps, and what a critic expected, tell responses of one reward apart.
    differ = (log.columns["advantages/zero"] < 1) | np.isfinite(log.columns["value/loss"])
    start = log.streak(equal & ~differ)
    if start is None:
        return None
    accuracy = log.last("accuracy")
    solved = accuracy >= limit("solved")
    return Finding(
        "equal_rewards",
        "warn" if solved else "stop",
        log.steps[start],
        f"In every group all rewards were equal for {_steps(log, start)} (reward "
        f"{log.last('reward'):.3g}, accuracy {accuracy:.3g}): no advantage, so no gradient.",
        "The questions are solved: end the run, or give it harder ones."
        if solved
        else "Give it easier questions or a better base, more rl.samples_per_prompt, or a higher "
        "sampling.temperature; read completions.jsonl to see that right answers are paid.",
    )


def truncated(log: Log) -> Finding | None:
    cut = log.columns["completions/clipped_ratio"]
    start = log.streak(cut > limit("cut"))
    if start is None:
        return None
    share = float(cut[start:].mean())
    return Finding(
        "truncated",
        "stop" if float(cut[-1]) >= limit("all cut") else "warn",
        log.steps[start],
        f"{share:.0%} of the responses were cut at the longest length over {_steps(log, start)}, "
        f"above {limit('cut'):.0%}.",
        "Raise sampling.max_tokens, pay for ending (soft_overlong) or mask the cut ones "
        "(overlong_filter); where all are cut, see that the model knows its end token.",
    )


def format_zero(log: Log) -> Finding | None:
    start = log.streak(log.columns["rewards/format/mean"] == 0)
    if start is None:
        return None
    return Finding(
        "format_zero",
        "warn" if log.last("accuracy") > 0 else "stop",
        log.steps[start],
        f"No response had the format that is asked for over {_steps(log, start)} (accuracy "
        f"{log.last('accuracy'):.3g}).",
        "Compare completions.jsonl with what data.template asks for; the template and the format "
        "reward may not belong together, or the base needs a few examples first.",
    )


def entropy_collapse(log: Log) -> Finding | None:
    columns = log.columns
    alike = columns["frac_reward_zero_std"] >= limit("variety")
    # Dynamic sampling hides equal groups: there they are those that were not accepted.
    alike |= columns["dynamic/accept_rate"] <= 1 - limit("variety")
    right = columns["accuracy"] >= limit("accuracy by low entropy")
    start = log.streak((columns["entropy"] < limit("entropy")) & alike & ~right)
    if start is None:
        return None
    return Finding(
        "entropy_collapse",
        "stop",
        log.steps[start],
        f"Entropy was {log.last('entropy'):.2g} nats a token with accuracy "
        f"{log.last('accuracy'):.3g}, and nearly all groups were of one mind, over "
        f"{_steps(log, start)}: there is nothing left to explore.",
        "Go back to a checkpoint before it; raise objective.clip_high (DAPO: 0.28), lower "
        "optim.lr, make fewer updates a step, or raise sampling.temperature.",
    )


def ratio_out_of_bounds(log: Log) -> Finding | None:
    ratio = log.columns["ratio/mean"]
    start = log.streak((ratio < limit("ratio low")) | (ratio > limit("ratio high")))
    if start is None:
        return None
    return Finding(
        "ratio_out_of_bounds",
        "stop",
        log.steps[start],
        f"The mean ratio of new to old policy was {float(ratio[-1]):.3g} over "
        f"{_steps(log, start)}, outside {limit('ratio low'):g} to {limit('ratio high'):g}.",
        "Make fewer updates a step (rl.updates_per_step) or lower optim.lr.",
    )


def sampler_gap(log: Log) -> Finding | None:
    gap = log.columns["sampling/sampling_logp_difference/mean"]
    start = log.streak(gap > limit("gap"))
    if start is None:
        return None
    return Finding(
        "sampler_gap",
        "stop",
        log.steps[start],
        f"Sampler and trainer differed by {float(gap[-1]):.3g} nats a token over "
        f"{_steps(log, start)}, above {limit('gap'):g}: training is off-policy.",
        "Compute both in one type (model.dtype float32 tells whether rounding is the cause), see "
        "that both use the same weights and temperature, or set objective.correction.",
    )


def loss_zero(log: Log) -> Finding | None:
    columns, zero = log.columns, limit("zero")
    start = log.streak((np.abs(columns["loss"]) < zero) & (columns["grad_norm"] < zero))
    if start is None:
        return None
    why, advice = _why_zero(log)
    solved = why.startswith("in every group") and log.last("accuracy") >= limit("solved")
    return Finding(
        "loss_zero",
        "warn" if solved else "stop",
        log.steps[start],
        f"Loss and gradient were 0 over {_steps(log, start)}: {why}.",
        advice,
    )


def _why_zero(log: Log) -> tuple[str, str]:
    """The reason for a loss of 0 and what to do, from the other numbers of the last step."""
    if log.last("reward/masked") >= 1:
        return "every sample was masked", "See which of grading/* counts them, and mend that."
    if log.last("completions/clipped_ratio") >= 1:
        return "every response was cut", "Raise sampling.max_tokens."
    if log.last("dynamic/accept_rate") <= 0:
        return "dynamic sampling accepted no group", "Give it easier or harder questions."
    if log.last("frac_reward_zero_std") >= 1:
        return "in every group all rewards were equal", "See equal_rewards."
    return (
        "the rewards differ, so the reason is elsewhere",
        "See that optim.lr is above 0, that parameters are trained, and that not all is clipped.",
    )


def grading_failures(log: Log) -> Finding | None:
    columns = log.columns
    masked, cut = columns["reward/masked"], np.nan_to_num(columns["completions/clipped_ratio"])
    counts = {name: np.nan_to_num(columns[name]) for name in REASONS_FOR_MASKS}
    # The overlong filter masks too, on purpose: what was cut needs a failure's count beside it.
    failed = np.sum(list(counts.values()), axis=0) > 0
    start = log.streak((masked > limit("masked")) & (failed | (masked - cut > limit("masked"))))
    if start is None:
        return None
    share = float(masked[start:].mean())
    kinds = ", ".join(f"{name} {column[-1]:.0f}" for name, column in counts.items() if column[-1])
    return Finding(
        "grading_failures",
        "stop" if share > limit("mostly masked") else "warn",
        log.steps[start],
        f"{share:.0%} of the samples could not be graded over {_steps(log, start)}"
        f"{f' (at the last: {kinds})' if kinds else ''}.",
        "docs/rewards.md says what each grading/* count means: mend the judge, the sandbox or the "
        "references, or raise grading.timeout_s and grading.deadline_s.",
    )


def accept_rate_falling(log: Log) -> Finding | None:
    rate = log.columns["dynamic/accept_rate"]
    start = log.streak(rate < limit("accepted"))
    advice = (
        "The questions are too easy or too hard for the policy as it is now: read accuracy to see "
        "which, and change the mix; each step costs its sampling over again."
    )
    if start is not None:
        seen = f"Dynamic sampling accepted {float(rate[-1]):.1%} of the groups"
        seen += f" over {_steps(log, start)}, less than one in ten."
        return Finding("accept_rate_falling", "stop", log.steps[start], seen, advice)
    change = _change(rate)
    if change is None or not change.sure or change.last >= limit("accepted, expected"):
        return None
    if change.last > limit("accepted, fall") * change.first:
        return None
    seen = f"The accepted share of groups fell from {change.first:.1%} to {change.last:.1%}"
    seen += f" in {_steps(log, 0)}."
    return Finding("accept_rate_falling", "warn", log.steps[0], seen, advice)


def length_explosion(log: Log) -> Finding | None:
    length = _change(log.columns["completions/mean_length"])
    accuracy = _change(log.columns["accuracy"])
    if length is None or accuracy is None or not length.sure:
        return None
    if length.last < limit("growth") * length.first or accuracy.rise >= limit("accuracy gain"):
        return None
    return Finding(
        "length_explosion",
        "warn",
        log.steps[0],
        f"Responses grew from {length.first:,.0f} to {length.last:,.0f} tokens in "
        f"{_steps(log, 0)}, accuracy went from {accuracy.first:.3g} to {accuracy.last:.3g}.",
        "Read the longest completions for repetition; average over tokens instead of over each "
        "response (objective.aggregation), add soft_overlong or a repetition penalty.",
    )


def hacking(log: Log) -> Finding | None:
    reward = _change(log.columns["reward"])
    if reward is None or not reward.sure or reward.rise <= 0:
        return None
    spread = log.columns["reward_std"]
    known = spread[np.isfinite(spread)]
    if len(known) and reward.rise < limit("reward rise") * float(known.mean()):
        return None
    held_out = log.columns[HELD_OUT]
    known = held_out[np.isfinite(held_out)]
    # Of many measurements two at either end must agree: one of few questions is a noisy one.
    ends = min(2, len(known) // 2)
    accuracy = _change(log.columns["accuracy"])
    if ends and known[:ends].min() - known[-ends:].max() > limit("accuracy fall"):
        what, first, last = "held-out accuracy", float(known[0]), float(known[-1])
    elif accuracy is not None and accuracy.sure and -accuracy.rise > limit("accuracy fall"):
        what, first, last = "accuracy", accuracy.first, accuracy.last
    else:
        return None
    return Finding(
        "hacking",
        "stop",
        log.steps[0],
        f"Reward rose from {reward.first:.3g} to {reward.last:.3g} in {_steps(log, 0)} while {what}"
        f" fell from {first:.3g} to {last:.3g}.",
        "See which rewards/*/mean rises and read its best-paid completions: that part pays for "
        "something else than right answers. Lower its weight, or pay it only when_correct.",
    )


TRENDS = (accept_rate_falling, length_explosion, hacking)
CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        not_finite,
        equal_rewards,
        truncated,
        format_zero,
        entropy_collapse,
        ratio_out_of_bounds,
        sampler_gap,
        loss_zero,
        grading_failures,
        *TRENDS,
    )
}
NAMES = tuple(CHECKS)


def _steps(log: Log, start: int) -> str:
    count = len(log.steps) - start
    return f"{count} step{'s' * (count != 1)}"
