"""Which metrics go into which chart of the report, and in what words."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.monitor.charts import Axis, Chart, Series, line_chart, stacked_bars
from r1jax.monitor.report_data import Run, Table
from r1jax.monitor.report_style import STYLES
from r1jax.monitor.report_verdict import phase_name

FEWEST_SAMPLES = 10  # of one kind in a step, for their accuracy to be drawn
OTHERS = 48  # charts of metrics that no section asked for
SHARE = Axis("share", 0.0, 1.0)


BARE = Axis()


@dataclasses.dataclass(frozen=True)
class Line:
    """A metric, or all that a `*` stands for, and its words in the legend."""

    metric: str
    label: str = ""  # none: what the `*` stands for
    right: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    title: str
    lines: tuple[Line, ...]
    left: Axis = BARE
    right: Axis | None = None
    note: str = ""
    least: int = 1  # lines without which there is nothing to compare
    extra: bool = False  # of what only some runs do: not called missing in the others


@dataclasses.dataclass(frozen=True)
class Figure:
    title: str
    charts: tuple[Chart, ...]  # the same for a wide and a narrow page, or just one
    x_label: str
    note: str = ""
    boxes: bool = False  # the legend's keys: areas, not lines


HERO_SIZES = ((960.0, 370.0), (380.0, 300.0))  # wide page, narrow page
HERO_TITLE = "Accuracy and response length"
HERO = (
    Line("accuracy", "accuracy"),
    Line("completions/mean_length", "response length, tokens", right=True),
)

LEARNING = (
    Plan(
        "Accuracy, reasoning or not",
        (
            Line("accuracy_with_reasoning", "with reasoning"),
            Line("accuracy_without_reasoning", "without"),
            Line("reasoning_share", "share that reasons"),
        ),
        SHARE,
        note=f"Only steps with {FEWEST_SAMPLES} samples of a kind or more.",
    ),
    Plan(
        "Reward and its parts",
        (Line("reward", "reward"), Line("rewards/*/mean")),
        Axis("mean of a step's samples"),
    ),
    Plan(
        "pass@k in training",
        (Line("accuracy", "pass@1"), Line("pass@*", "pass@{}")),
        SHARE,
        note="Prompts of which one of k samples is right.",
        least=2,
    ),
    Plan("Accuracy by task", (Line("tasks/*/accuracy"),), SHARE, least=2, extra=True),
    Plan("Reward by task", (Line("tasks/*/reward"),), least=2, extra=True),
    Plan(
        "Length, right or wrong",
        (
            Line("completions/mean_length", "all"),
            Line("completions/mean_length_wrong", "wrong"),
            Line("completions/mean_length_correct", "right"),
        ),
        Axis("tokens"),
        least=2,
    ),
    Plan(
        "Groups of equal rewards",
        (
            Line("frac_reward_zero_std", "share of groups"),
            Line("reward_std", "std of rewards", right=True),
        ),
        Axis("share of groups", 0.0, 1.0),
        Axis("std", 0.0),
        note="Groups of equal rewards teach nothing; the std is that inside a group.",
    ),
    Plan(
        "Entropy and confidence",
        (
            Line("entropy", "entropy"),
            Line("mean_probability", "mean probability", right=True),
        ),
        Axis("entropy, nats", 0.0),
        Axis("probability", None, 1.0),
        note="Of the tokens sampled, as the sampler saw them.",
    ),
)

HEALTH = (
    Plan(
        "Loss and gradient norm",
        (Line("loss", "loss"), Line("grad_norm", "gradient norm", right=True)),
        Axis("loss"),
        Axis("gradient norm", 0.0),
    ),
    Plan(
        "Clipped tokens",
        (
            Line("clip_ratio/high_mean", "above"),
            Line("clip_ratio/low_mean", "below"),
            Line("clip_ratio/region_mean", "either"),
        ),
        Axis("share of tokens", 0.0),
        note="Ratio to the old policy out of the clip range.",
    ),
    Plan(
        "Sampler against trainer",
        (
            Line("sampling/sampling_logp_difference/mean", "mean"),
            Line("sampling/sampling_logp_difference/max", "largest"),
        ),
        Axis("log-prob gap, nats", log=True),
        note="The same tokens, when sampled and when trained on.",
    ),
    Plan(
        "Distance of policies",
        (Line("approx_kl", "from old policy"), Line("kl", "from reference")),
        Axis("KL, nats a token"),
    ),
    Plan(
        "Dynamic sampling",
        (
            Line("dynamic/accept_rate", "groups accepted"),
            Line("dynamic/accuracy", "accuracy of all groups"),
        ),
        SHARE,
        note="Of the groups that were sampled, those within the band.",
        extra=True,
    ),
    Plan(
        "Staleness",
        (Line("staleness/mean", "mean"), Line("staleness/max", "largest")),
        Axis("updates", 0.0),
        note="Updates between the policy that began a response and the one that learns from it.",
        extra=True,
    ),
    Plan(
        "Cut off or left out",
        (
            Line("completions/clipped_ratio", "cut off"),
            Line("reward/masked", "left out"),
        ),
        Axis("share", 0.0),
        note="Cut off at the longest length; left out where grading failed.",
    ),
)

HELD_OUT = "evaluate"  # the phase of measurements between steps
HELD_OUT_ACCURACY = Plan(
    "Accuracy, held out",
    (
        Line("greedy_accuracy", "greedy"),
        Line("accuracy", "sampled (pass@1)"),
        Line("maj_at_k", "maj@k"),
        Line("pass_at_k", "pass@k"),
    ),
    SHARE,
)

SPEED = (
    Plan("Speed", (Line("tokens_per_second", "sampled tokens"),), Axis("tokens a second", 0.0)),
    Plan(
        "Speed of each device",
        (Line("perf/tokens_per_second_per_device", "sampled tokens"),),
        Axis("tokens a second and device", 0.0),
        note="Evaluations and checkpoints left out.",
        extra=True,
    ),
    Plan(
        "Use of the device",
        (
            Line("perf/mfu", "MFU, of the peak in bfloat16"),
            Line("perf/share_of_matmul", "of a measured matrix product"),
        ),
        Axis("share", 0.0),
        note="Model FLOPs of sampling and updates, over the seconds of the step.",
        extra=True,
    ),
    Plan(
        "Peak memory",
        (
            Line("memory/device_peak_gb", "fullest device"),
            Line("memory/process_peak_gb", "this process"),
        ),
        Axis("GB", 0.0),
        extra=True,
    ),
)

# Said in another chart, or of the run's bookkeeping only.
COVERED = (
    "policy_loss",
    "sampling/logp_difference",
    "step_time",
    "num_tokens",
    "tokens",
    "perf/tflops_per_device",
)


def step_label(phase: str) -> str:
    if phase == HELD_OUT:
        return "RL steps done"
    return f"{phase_name(phase)} step"


def hero_figure(run: Run, sizes: Sequence[tuple[float, float]] = HERO_SIZES) -> Figure | None:
    """Accuracy and length on one plot, drawn in each of the sizes."""
    plan = Plan(
        HERO_TITLE,
        HERO,
        Axis("accuracy", 0.0, 1.0),
        Axis("response length, tokens", 0.0),
    )
    series = make_series(run.table, plan, run.samples_per_step)
    if not series:
        return None
    charts = tuple(
        line_chart(
            run.table.steps.astype(float),
            series,
            left=plan.left,
            right=plan.right if any(line.right for line in series) else None,
            x_label=step_label(run.main),
            size=size,
            most=360,
            end_values=True,
        )
        for size in sizes
    )
    return Figure(HERO_TITLE, charts, step_label(run.main))


def make_figure(run: Run, plan: Plan, phase: str) -> Figure | None:
    """None where the phase lacks the metrics."""
    table = run.phases[phase]
    series = make_series(table, plan, run.samples_per_step if phase == run.main else None)
    if len(series) < plan.least:
        return None
    right = plan.right if any(line.right for line in series) else None
    if right is not None and all(line.right for line in series):
        series = [dataclasses.replace(line, right=False) for line in series]
        left, right = right, None
    else:
        left = plan.left
    x = table.steps.astype(float)
    chart = line_chart(x, series, left=left, right=right, x_label=step_label(phase))
    known = [metric for metric in used_metrics([plan], table) if table.get(metric) is not None]
    more = f"{len(known) - len(series)} more in metrics.jsonl." if len(known) > len(series) else ""
    return Figure(plan.title, (chart,), step_label(phase), f"{plan.note} {more}".strip())


def make_series(table: Table, plan: Plan, samples: int | None) -> list[Series]:
    """The plan's lines that have values, each in a colour of its own."""
    series = []
    for line in plan.lines:
        for metric, label in matches(line, table.columns):
            column = table.get(metric)
            if column is not None and len(series) < STYLES:
                column = reliable(table, metric, column, samples)
                series.append(Series(label, column, len(series), line.right))
    return series


def matches(line: Line, columns: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """(metric, label) of a line; several where its name has a `*`."""
    if "*" not in line.metric:
        return [(line.metric, line.label)]
    head, tail = line.metric.split("*")
    found = []
    for name in columns:
        middle = name[len(head) : len(name) - len(tail)]
        if middle and name == head + middle + tail:
            found.append((name, line.label.replace("{}", middle) if line.label else middle))
    return found


def reliable(table: Table, metric: str, column: np.ndarray, samples: int | None) -> np.ndarray:
    """An accuracy by kind is noise where a step has a handful of samples of that kind."""
    share = table.get("reasoning_share")
    if share is None or samples is None or not metric.startswith("accuracy_with"):
        return column
    count = samples * (share if metric == "accuracy_with_reasoning" else 1 - share)
    return np.where(count >= FEWEST_SAMPLES - 0.5, column, np.nan)


def phase_times(run: Run) -> Figure | None:
    """Seconds of each part of a step, stacked."""
    names = [name for name in run.table.columns if name.startswith("time/")]
    totals = {name: float(np.nansum(run.table.columns[name])) for name in names}
    kept = sorted((name for name in names if totals[name] > 0), key=lambda name: -totals[name])
    if not kept:
        return None
    columns = [(name.removeprefix("time/"), run.table.columns[name]) for name in kept]
    if len(columns) > STYLES:
        rest = np.sum([np.nan_to_num(column) for _, column in columns[STYLES - 1 :]], axis=0)
        columns = [*columns[: STYLES - 1], ("other", rest)]
    series = [Series(label, column, i) for i, (label, column) in enumerate(columns)]
    chart = stacked_bars(
        run.table.steps.astype(float),
        series,
        left=Axis("seconds a step"),
        x_label=step_label(run.main),
    )
    note = (
        "As the host sees it: the device's work counts where the host waits for it. "
        "The first step compiles."
    )
    return Figure("Time of a step", (chart,), step_label(run.main), note, boxes=True)


def used_metrics(plans: Sequence[Plan], table: Table) -> set[str]:
    return {
        metric
        for plan in plans
        for line in plan.lines
        for metric, _ in matches(line, table.columns)
    }


def other_plans(table: Table, used: set[str]) -> list[Plan]:
    """A small chart for each varying metric that is shown nowhere else."""
    plans = []
    for name in sorted(table.columns):
        column = table.get(name)
        if name in used or name in COVERED or name.startswith("time/") or column is None:
            continue
        known = column[np.isfinite(column)]
        if len(known) > 1 and np.ptp(known) > 0:
            plans.append(Plan(name, (Line(name, name),)))
    return plans
