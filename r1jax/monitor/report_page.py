"""The report's HTML, section by section. Nothing in it is fetched from anywhere."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import r1jax
from r1jax.monitor import report_charts as plans
from r1jax.monitor import rollouts
from r1jax.monitor.charts import clean, dumbbells
from r1jax.monitor.doctor import Finding
from r1jax.monitor.records import is_number
from r1jax.monitor.report_charts import Figure, Plan
from r1jax.monitor.report_data import Run
from r1jax.monitor.report_samples import samples_html
from r1jax.monitor.report_style import CHART_CSS, LAYOUT_CSS, SCRIPT
from r1jax.monitor.report_verdict import (
    Verdict,
    headline,
    overall,
    phase_name,
    reasoning_pays,
    rise_together,
)
from r1jax.monitor.scales import number_text, share_text, signed_text

# Rows of the before/after table; those that are shares also go into the drawing beside it.
SHARES = {
    "greedy_accuracy": "accuracy, greedy",
    "accuracy": "accuracy, sampled (pass@1)",
    "maj_at_k": "maj@{k}",
    "pass_at_k": "pass@{k}",
    "reasoning_share": "share that reasons",
    "accuracy_with_reasoning": "accuracy with reasoning",
    "accuracy_without_reasoning": "accuracy without reasoning",
}
NUMBERS = {"mean_length": "mean length, tokens"}
DRAWN = ("greedy_accuracy", "accuracy", "maj_at_k", "pass_at_k")
SETTINGS_SHOWN = 600


def page_html(run: Run) -> str:
    """The whole page."""
    tests = (rise_together(run), reasoning_pays(run))
    hero = plans.hero_figure(run)
    body = [
        _head(run, tests),
        figure_html(hero, "hero") if hero else "",
        _section("Is it a real reproduction?", _tests(tests)),
        _section("Before and after, on held-out prompts", _before_after(run)),
        _section("How it learned", _figures(run, plans.LEARNING, _held_out(run))),
        _section(
            "Samples, early and late", samples_html(run.early, run.late) or _none("completions")
        ),
        _section("Rollout browser", rollouts.browser_html(run.rollouts)) if run.early else "",
        _section(
            "Health of the training",
            _findings(run.findings) + _figures(run, plans.HEALTH, _other_losses(run)),
        ),
        _section("Where the time went", _times(run)),
        _others(run),
        _config(run.config),
        _foot(run, hero is None),
    ]
    # Only this very script may run, whatever a completion contains, and nothing may be fetched.
    script = SCRIPT + rollouts.SCRIPT
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{clean(run.name)} · r1jax report</title>"
        f"<style>{CHART_CSS}{LAYOUT_CSS}{rollouts.CSS}</style></head>\n"
        f"<body><main>{''.join(body)}</main>\n<script>{script}</script></body></html>\n"
    )


def figure_html(figure: Figure, classes: str = "") -> str:
    """A drawing with its title, a legend that holds the last values, and data for the read-out."""
    chart = figure.charts[0]
    drawings = "".join(
        f'<div class="{kind}">{one.svg}</div>'
        for kind, one in zip(("wide", "narrow"), figure.charts, strict=False)
    )
    at = clean(f"{figure.x_label} {chart.hover['x'][-1]}")
    note = f"<figcaption>{clean(figure.note)}</figcaption>" if figure.note else ""
    return (
        f'<figure class="{classes}" data-chart><h3>{clean(figure.title)}'
        f'<span class="at">{at}</span></h3>'
        f"{_legend(figure)}{drawings if len(figure.charts) > 1 else chart.svg}{note}"
        f'<script type="application/json">{_hover_json(figure)}</script></figure>'
    )


def _legend(figure: Figure) -> str:
    chart = figure.charts[0]
    entries = []
    for (label, style), values in zip(chart.legend, chart.hover["y"], strict=True):
        shape = " box" if figure.boxes else ""
        entries.append(
            f'<li><i class="key s{style}{shape}"></i>{clean(label)} <b>{clean(values[-1])}</b></li>'
        )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _hover_json(figure: Figure) -> str:
    hover = figure.charts[0].hover
    data = {
        "label": figure.x_label,
        "x": hover["x"],
        "y": hover["y"],
        "px": [chart.hover["px"] for chart in figure.charts],
        "ends": [chart.hover["ends"] for chart in figure.charts],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _head(run: Run, tests: tuple[Verdict, ...]) -> str:
    facts = []
    for path, words in (
        ("data.task", "task {}"),
        ("rl.prompts_per_step", "{} prompts a step"),
        ("rl.samples_per_prompt", "{} samples a prompt"),
        ("seed", "seed {}"),
    ):
        value = run.setting(path)
        if isinstance(value, str | int):
            facts.append(words.format(str(value).replace("_", " ")))
    notes = list(run.problems)
    if run.steps_left:
        done = int(run.table.steps[-1]) + 1
        notes.insert(
            0, f"{done:,} of {done + run.steps_left:,} {phase_name(run.main)} steps are logged"
        )
    note = f'<p class="note">Note: {clean("; ".join(notes))}.</p>' if notes else ""
    return (
        f'<p class="eyebrow">r1jax report · <b>{clean(run.name)}</b>'
        f"{''.join(f' · {clean(fact)}' for fact in facts)}</p>"
        f"<h1>{clean(headline(run))}</h1>"
        f'<p class="lead">{clean(overall(run, tests))}</p>{note}'
    )


def _tests(tests: Iterable[Verdict]) -> str:
    cards = []
    for test in tests:
        kind = {"PASS": "pass", "FAIL": "unsure" if test.expected else "fail"}.get(
            test.state, "unsure"
        )
        state = "FAIL, AS EXPECTED" if test.expected else test.state
        checks = "".join(
            f'<li class="{"yes" if check.passed else "no"}">{clean(check.text)}</li>'
            for check in test.checks
        )
        cards.append(
            f'<article class="card test"><header><h3>{clean(test.title)}</h3>'
            f'<span class="badge {kind}">{state}</span></header>'
            f'<p>{clean(test.reason)}</p><ul class="checks">{checks}</ul>'
            f'<p class="rule"><b>Rule.</b> {clean(test.rule)}</p></article>'
        )
    return f'<div class="grid2">{"".join(cards)}</div>'


def _before_after(run: Run) -> str:
    before, after = run.evaluation("before"), run.evaluation("after")
    if not before and not after:
        return _none("evaluations before and after")
    k = after.get("k", before.get("k"))
    labels = {key: label.replace("{k}", number_text(k)) for key, label in SHARES.items()}
    rows = [
        _row(label, before.get(key), after.get(key), share=True)
        for key, label in labels.items()
        if key in before or key in after
    ]
    known = {*SHARES, "k"}
    for key in [*NUMBERS, *sorted((before.keys() | after.keys()) - known - NUMBERS.keys())]:
        if key in before or key in after:
            label = NUMBERS.get(key, key)
            rows.append(_row(label, before.get(key), after.get(key), share=False))
    table = (
        "<table><thead><tr><th></th><th>before</th><th>after</th><th>change</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    drawn = [
        (labels[key].replace(" (pass@1)", ""), before.get(key), after.get(key))
        for key in DRAWN
        if key in before or key in after
    ]
    if not drawn:
        return f'<div class="card">{table}</div>'
    chart = dumbbells(drawn)
    legend = "".join(
        f'<li><i class="key {kind} s{style}"></i>{label}</li>'
        for kind, (label, style) in zip(("hollow", "full"), chart.legend, strict=True)
    )
    note = (
        "pass@k: at least one of k samples is right. maj@k: the most frequent answer of k samples "
        "is right."
    )
    return (
        f'<div class="grid2"><div class="card">{table}</div><figure class="dumbbells">'
        f"<h3>Share of prompts solved</h3>"
        f'<ul class="legend">{legend}</ul>{chart.svg}<figcaption>{note}</figcaption></figure></div>'
    )


def _row(label: str, before: float | None, after: float | None, *, share: bool) -> str:
    say = share_text if share else number_text
    change = "–"
    if before is not None and after is not None:
        difference = after - before
        change = f"{difference:+.3f}".replace("-", "−") if share else signed_text(difference)
    return (
        f"<tr><th>{clean(label)}</th><td>{clean(say(before))}</td>"
        f'<td class="main">{clean(say(after))}</td><td>{change}</td></tr>'
    )


def _findings(findings: Iterable[Finding]) -> str:
    """What the doctor says; nothing where it found nothing."""
    cards = []
    for finding in findings:
        over = finding.ended is not None
        kind = "fail" if finding.severity == "stop" and not over else "unsure"
        state = f"OVER AT STEP {finding.ended}" if over else finding.severity.upper()
        title = f"{finding.name.replace('_', ' ')}, since step {finding.began}"
        cards.append(
            f'<article class="card test"><header><h3>{clean(title)}</h3>'
            f'<span class="badge {kind}">{state}</span></header>'
            f"<p>{clean(finding.seen)}</p>"
            f'<p class="rule"><b>What to do.</b> {clean(finding.advice)}</p></article>'
        )
    return f'<div class="grid2">{"".join(cards)}</div>' if cards else ""


def _figures(run: Run, wanted: Sequence[Plan], more: str = "") -> str:
    figures = [plans.make_figure(run, plan, run.main) for plan in wanted]
    missing = [
        plan.title
        for plan, figure in zip(wanted, figures, strict=True)
        if figure is None and not plan.extra
    ]
    shown = "".join(figure_html(figure) for figure in figures if figure)
    grid = f'<div class="grid3">{shown}{more}</div>' if shown or more else ""
    return grid + (_none(*missing) if missing else "")


def _held_out(run: Run) -> str:
    """What was measured between the steps."""
    if plans.HELD_OUT not in run.phases:
        return ""
    figure = plans.make_figure(run, plans.HELD_OUT_ACCURACY, plans.HELD_OUT)
    return figure_html(figure) if figure else ""


def _other_losses(run: Run) -> str:
    """Loss and entropy of every other phase that has them: the base's pre-training, an SFT."""
    figures = []
    for phase in run.phases:
        plan = Plan(
            f"Loss in {phase_name(phase)}",
            (plans.Line("loss", "loss"), plans.Line("entropy", "entropy")),
            plans.Axis("nats a token"),
        )
        if phase != run.main:
            figures.append(plans.make_figure(run, plan, phase))
    return "".join(figure_html(figure) for figure in figures if figure)


def _times(run: Run) -> str:
    figures = [plans.phase_times(run)]
    figures += [plans.make_figure(run, plan, run.main) for plan in plans.SPEED]
    seconds = run.summary.get("seconds")
    cards = []
    if isinstance(seconds, dict):
        known = {str(k): float(v) for k, v in seconds.items() if is_number(v) and v >= 0}
        whole = {k: v for k, v in known.items() if k != "compile"}
        compiled = known.get("compile")
        note = ""
        if compiled is not None:
            note = f"Compiling took {number_text(compiled)} s of this, spread over the phases."
        cards.append(_totals("Whole run", whole, note))
    columns = run.table.columns
    parts = {k[5:]: float(np.nansum(v)) for k, v in columns.items() if k.startswith("time/")}
    cards.append(_totals(f"{phase_name(run.main)} steps", parts, ""))
    totals = "".join(cards)
    shown = "".join(figure_html(figure) for figure in figures if figure)
    shown += f'<article class="card totals">{totals}</article>' if totals else ""
    return f'<div class="grid3">{shown}</div>' if shown else _none("times")


def _totals(title: str, seconds: Mapping[str, float], note: str) -> str:
    """Bars of seconds, longest first."""
    total = sum(seconds.values())
    if not total > 0:
        return ""
    rows = "".join(
        f'<tr><th>{clean(name)}</th><td class="bar"><span class="key s0 meter" '
        f'style="width:{100 * value / total:.1f}%"></span></td>'
        f"<td>{number_text(value)} s</td><td>{value / total:.0%}</td></tr>"
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
        if value > 0
    )
    return (
        f"<h3>{clean(title)}: {number_text(total)} s</h3>"
        f'<table><tbody>{rows}</tbody></table><p class="note">{clean(note)}</p>'
    )


def _others(run: Run) -> str:
    """Folded away: a chart of every metric that no section asked for."""
    asked = (Plan("", plans.HERO), *plans.LEARNING, *plans.HEALTH, *plans.SPEED)
    figures, left = [], 0
    for phase, table in run.phases.items():
        used = plans.used_metrics(asked, table) if phase == run.main else {"loss", "entropy"}
        if phase == plans.HELD_OUT:
            used = plans.used_metrics([plans.HELD_OUT_ACCURACY], table)
        for plan in plans.other_plans(table, used):
            figure = plans.make_figure(run, plan, phase)
            if figure and len(figures) < plans.OTHERS:
                figures.append(figure_html(figure))
            else:
                left += 1
    if not figures:
        return ""
    more = f'<p class="note">and {left} more in metrics.jsonl</p>' if left else ""
    return (
        f"<details><summary>All other metrics ({len(figures)})</summary>"
        f'<div class="grid3">{"".join(figures)}</div>{more}</details>'
    )


def _config(config: Mapping[str, Any]) -> str:
    """Folded away: every setting, a table for each section."""
    if not config:
        return ""
    tables: dict[str, list[str]] = {}
    for path, value in list(flatten(config))[:SETTINGS_SHOWN]:
        section, _, key = path.rpartition(".")
        shown = clean(json.dumps(value, ensure_ascii=False)[:300])
        tables.setdefault(section, []).append(f"<tr><td>{clean(key)}</td><td>{shown}</td></tr>")
    blocks = "".join(
        f"<table><thead><tr><th>{clean(section or 'run')}</th><th></th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        for section, rows in tables.items()
    )
    summary = "<summary>Config, every setting</summary>"
    return f'<details>{summary}<div class="config">{blocks}</div></details>'


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted path, value) of every leaf."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _foot(run: Run, no_hero: bool) -> str:
    missing = _none(plans.HERO_TITLE) if no_hero else ""
    return f"<footer>{missing}Written by r1jax {r1jax.__version__}.</footer>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{clean(title)}</h2>{content}</section>"


def _none(*what: str) -> str:
    """One line for all that a run did not log."""
    names = ", ".join(text[0].lower() + text[1:] for text in what)
    return f'<p class="note">Not in this run\'s files: {clean(names)}.</p>'
