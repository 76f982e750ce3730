"""Charts as inline SVG: arrays in, a string out. No plotting library, and no script needed.

Colours, dashes and fonts are classes (`s0`, `s1`, ... for series), so that one picture serves light
and dark; `report_style.CHART_CSS` defines them.
"""

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.monitor.scales import Scale, make_scale, number_text

FONT = 12.0  # px, of tick labels
UNPRINTABLE = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
SIZE = (350.0, 220.0)


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a y axis measures. Bounds that are None come from the data."""

    label: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: values over the chart's x, NaN where there is none."""

    label: str
    y: np.ndarray
    style: int = 0  # of the class `s<style>`
    right: bool = False  # measured by the right axis


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawing, and what a page needs to give it a legend and a read-out."""

    size: tuple[float, float]
    body: str  # SVG elements
    summary: str  # what a screen reader says
    legend: tuple[tuple[str, int], ...]  # (label, style)
    hover: Mapping[str, Any]  # x and y as text, and where each x lies in the drawing

    @property
    def svg(self) -> str:
        return svg(self.size, self.body, self.summary)


@dataclasses.dataclass(frozen=True)
class Panel:
    """The plotting area of a drawing and the scales along its sides."""

    size: tuple[float, float]
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]  # of the frame: bottom, top
    x: Scale
    left: Scale
    right: Scale | None = None
    headroom: float = 0.0  # px kept free under the top

    def px(self, values: np.ndarray) -> np.ndarray:
        return self.x.place(values, self.x_ends)

    def py(self, values: np.ndarray, right: bool = False) -> np.ndarray:
        scale = self.right if right and self.right is not None else self.left
        bottom, top = self.y_ends
        return scale.place(values, (bottom, top + self.headroom))


@dataclasses.dataclass(frozen=True)
class Bins:
    """Mean, least and greatest of each bin of points."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def line_chart(
    x: np.ndarray,
    series: Sequence[Series],
    *,
    left: Axis = Axis(),
    right: Axis | None = None,
    x_label: str = "step",
    size: tuple[float, float] = SIZE,
    most: int = 240,
    end_values: bool = False,
) -> Chart:
    """Lines over a shared x, measured by one or two y axes.

    More than `most` points are thinned: a line through the means of equal bins of points, and a
    band from their least to their greatest. `end_values` writes the first and the last value of
    each line beside it.
    """
    shown_x, *shown = thin(x, [line.y for line in series], most)
    lefts = [b for line, b in zip(series, shown, strict=True) if not line.right]
    rights = [b for line, b in zip(series, shown, strict=True) if line.right]
    panel = make_panel(
        size,
        make_scale([shown_x.mean], tight=True, ticks=6),
        _axis_scale(left, lefts),
        None if right is None else _axis_scale(right, rights),
        headroom=2 * FONT if end_values else 0.0,
    )
    px = panel.px(shown_x.mean)
    parts = [grid(panel), axis_titles(panel, left, right, x_label, series)]
    for line, bins in zip(series, shown, strict=True):
        if len(x) > most:
            low, high = panel.py(bins.low, line.right), panel.py(bins.high, line.right)
            parts.append(f'<path class="band s{line.style}" d="{band_data(px, low, high)}"/>')
    for line, bins in zip(series, shown, strict=True):
        d = path_data(px, panel.py(bins.mean, line.right))
        parts.append(f'<path class="line s{line.style}" d="{d}"/>')
    if end_values:
        parts.append(_end_values(panel, px, series, shown))
    return _chart(panel, px, shown_x.mean, series, [bins.mean for bins in shown], parts)


def stacked_bars(
    x: np.ndarray,
    series: Sequence[Series],
    *,
    left: Axis = Axis(),
    x_label: str = "step",
    size: tuple[float, float] = SIZE,
    most: int = 60,
) -> Chart:
    """Bars of parts that add up. A bar far above the rest is cut off and says how high it is."""
    shown_x, *shown = thin(x, [line.y for line in series], most)
    at = shown_x.mean
    parts_SX = np.stack([np.nan_to_num(bins.mean) for bins in shown])
    totals = parts_SX.sum(axis=0)
    half = float(np.diff(at).min()) / 2 if len(at) > 1 else 0.5
    panel = make_panel(
        size,
        make_scale([at - half, at + half], tight=True, ticks=6),
        make_scale([np.array([0.0, bar_height(totals)])], low=0.0),
    )
    px = panel.px(at)
    width = max(float(panel.px(np.array(half)) - panel.px(np.array(-half))) * 0.84, 0.5)
    edges = np.vstack([np.zeros_like(totals), np.cumsum(parts_SX, axis=0)])
    py = panel.py(np.minimum(edges, panel.left.high))
    drawn = [grid(panel), axis_titles(panel, left, None, x_label, [])]
    for i, line in enumerate(series):
        bars = "".join(
            f"M{px[j] - width / 2:.1f} {py[i, j]:.1f}h{width:.1f}V{py[i + 1, j]:.1f}h{-width:.1f}z"
            for j in range(len(px))
            if py[i, j] - py[i + 1, j] > 0.05
        )
        drawn.append(f'<path class="bar s{line.style}" d="{bars}"/>')
    for j in np.flatnonzero(totals > panel.left.high * 1.001)[:3]:
        label = f"↑ {number_text(float(totals[j]), 2)}"
        drawn.append(text(float(px[j]) + width, panel.y_ends[1] + FONT, label, "cut"))
    return _chart(panel, px, at, series, list(parts_SX), drawn)


def dumbbells(
    rows: Sequence[tuple[str, float | None, float | None]],
    *,
    styles: tuple[int, int] = (5, 0),
    width: float = SIZE[0],
) -> Chart:
    """Shares before (hollow) and after (full), a row each, on a scale from 0 to 1."""
    pitch, top = 30.0, 8.0
    left = 12 + max((text_width(label) for label, _, _ in rows), default=0.0)
    height = top + pitch * len(rows) + 26
    scale = make_scale([], low=0.0, high=1.0)
    ends = (left, width - 16)
    parts = []
    for tick, label in zip(scale.ticks, scale.labels, strict=True):
        at = float(scale.place(np.array(tick), ends))
        parts.append(f'<path class="grid" d="M{at:.1f} {top:g}V{height - 22:g}"/>')
        parts.append(text(at, height - 6, label, "middle"))
    for i, (label, *pair) in enumerate(rows):
        y = top + pitch * (i + 0.5)
        before, after = (None if v is None else float(scale.place(np.array(v), ends)) for v in pair)
        parts.append(text(left - 10, y + FONT / 3, label, "end"))
        if before is not None and after is not None:
            parts.append(f'<path class="rod" d="M{before:.1f} {y:g}H{after:.1f}"/>')
        # The hollow one is wider: where nothing changed both are seen.
        for at, kind, style, radius in (
            (before, "hollow", styles[0], 7.5),
            (after, "full", styles[1], 4.0),
        ):
            if at is not None:
                parts.append(
                    f'<circle class="{kind} s{style}" cx="{at:.1f}" cy="{y:g}" r="{radius}"/>'
                )
    summary = "; ".join(
        f"{label}: {number_text(before)} before, {number_text(after)} after"
        for label, before, after in rows
    )
    legend = (("before", styles[0]), ("after", styles[1]))
    return Chart((width, height), "".join(parts), summary, legend, {})


def thin(x: np.ndarray, ys: Sequence[np.ndarray], most: int) -> list[Bins]:
    """x, then each y, in at most `most` equal bins of points; NaN is left out of a bin."""
    columns = [np.asarray(values, float) for values in (x, *ys)]
    if len(x) <= most:
        return [Bins(values, values, values) for values in columns]
    starts = np.linspace(0, len(x), most + 1).astype(int)[:-1]
    thinned = []
    for values in columns:
        known = np.isfinite(values)
        counts = np.add.reduceat(known.astype(float), starts)
        blank = counts == 0  # a bin without a value stays without
        sums = np.add.reduceat(np.where(known, values, 0.0), starts)
        low = np.minimum.reduceat(np.where(known, values, np.inf), starts)
        high = np.maximum.reduceat(np.where(known, values, -np.inf), starts)
        means = sums / np.maximum(counts, 1)
        thinned.append(Bins(*(np.where(blank, np.nan, row) for row in (means, low, high))))
    return thinned


def bar_height(totals: np.ndarray) -> float:
    """Up to where bars are drawn: the greatest, unless it dwarfs nearly all the others."""
    highest = float(totals.max(initial=0.0))
    usual = float(np.percentile(totals, 90)) if len(totals) else 0.0
    return highest if usual <= 0 or highest < 3 * usual else 1.5 * usual


def make_panel(
    size: tuple[float, float],
    x: Scale,
    left: Scale,
    right: Scale | None = None,
    headroom: float = 0.0,
) -> Panel:
    """Margins as wide as the labels they hold."""
    margin_left, margin_right = (
        14.0 if scale is None else 12 + max(map(text_width, scale.labels), default=0.0)
        for scale in (left, right)
    )
    x_ends = (margin_left, size[0] - margin_right)
    return Panel(size, x_ends, (size[1] - 40.0, 26.0), x, left, right, headroom)


def grid(panel: Panel) -> str:
    """Lines across at the left axis's ticks, and the labels of all axes."""
    (left, right), (bottom, _) = panel.x_ends, panel.y_ends
    parts = []
    for y, label in _placed(panel.left, panel.py(np.array(panel.left.ticks))):
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(text(left - 6, y + FONT / 3, label, "end"))
    if panel.right is not None:
        for y, label in _placed(panel.right, panel.py(np.array(panel.right.ticks), True)):
            parts.append(f'<path class="axis" d="M{right:.1f} {y:.1f}h4"/>')
            parts.append(text(right + 7, y + FONT / 3, label, ""))
    for x, label in _placed(panel.x, panel.px(np.array(panel.x.ticks))):
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom:.1f}v4"/>')
        parts.append(text(x, bottom + 6 + FONT, label, "middle"))
    parts.append(f'<path class="axis" d="M{left:.1f} {bottom:.1f}H{right:.1f}"/>')
    return "".join(parts)


def axis_titles(
    panel: Panel, left: Axis, right: Axis | None, x_label: str, series: Sequence[Series]
) -> str:
    """Above the y axes, to be read without turning the head; in the line's colour if it is one."""
    width, height = panel.size
    middle = sum(panel.x_ends) / 2
    parts = [text(middle, height - 5, x_label, "title middle")]
    for axis, x, anchor, on_right in ((left, 2.0, "", False), (right, width - 2, " end", True)):
        if axis is None:
            continue
        lines = [line for line in series if line.right == on_right]
        ink = f" ink s{lines[0].style}" if right is not None and len(lines) == 1 else ""
        parts.append(text(x, FONT, axis.label, f"title{anchor}{ink}"))
    return "".join(parts)


def path_data(px: np.ndarray, py: np.ndarray) -> str:
    """A line through the points, lifted over those that are not finite; a lone point is a dot."""
    known = np.isfinite(px) & np.isfinite(py)
    parts = []
    for i in np.flatnonzero(known):
        starts = i == 0 or not known[i - 1]
        lone = starts and (i + 1 == len(px) or not known[i + 1])
        parts.append(f"{'M' if starts else 'L'}{px[i]:.1f} {py[i]:.1f}{'h0' if lone else ''}")
    return "".join(parts)


def band_data(px: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The outline of the stretch between two lines, where both are finite."""
    known = np.isfinite(low) & np.isfinite(high)
    if not known.any():
        return ""
    there = [f"{x:.1f} {y:.1f}" for x, y in zip(px[known], high[known], strict=True)]
    back = [f"{x:.1f} {y:.1f}" for x, y in zip(px[known][::-1], low[known][::-1], strict=True)]
    return "M" + "L".join(there + back) + "z"


def text(x: float, y: float, content: str, classes: str) -> str:
    """A label; classes `middle` and `end` say which part of it lies at x."""
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{clean(content)}</text>'


def clean(content: str) -> str:
    """Escaped and `printable`."""
    return html.escape(printable(content))


def printable(content: str) -> str:
    """Control characters and lone surrogates, which HTML and XML cannot hold, replaced."""
    return re.sub(UNPRINTABLE, "\ufffd", content)


def text_width(content: str, font: float = FONT) -> float:
    """A fair guess for sans-serif digits and lower case."""
    return len(content) * font * 0.56


def svg(size: tuple[float, float], body: str, summary: str) -> str:
    """A drawing that screen readers name by its summary."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]:g} {size[1]:g}" '
        f'role="img" aria-label="{clean(summary)}" font-size="{FONT:g}">{body}</svg>'
    )


def standalone(chart: Chart, css: str, *, margin: float = 20.0) -> str:
    """An SVG file: on paper of its own, so that it reads on any page, light or dark."""
    width, height = (side + 2 * margin for side in chart.size)
    body = (
        f"<style>{css}</style>"
        f'<rect class="paper" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="12"/>'
        f'<g transform="translate({margin:g} {margin:g})">{chart.body}</g>'
    )
    return svg((width, height), body, chart.summary) + "\n"


def _axis_scale(axis: Axis, values: Sequence[Bins]) -> Scale:
    bounds = [bound for bins in values for bound in (bins.mean, bins.low, bins.high)]
    return make_scale(bounds, low=axis.low, high=axis.high, log=axis.log)


def _placed(scale: Scale, places: np.ndarray) -> list[tuple[float, str]]:
    return [(float(place), label) for place, label in zip(places, scale.labels, strict=True)]


def _end_values(
    panel: Panel, px: np.ndarray, series: Sequence[Series], shown: Sequence[Bins]
) -> str:
    """First and last value of each line; of two, the upper's above it and the lower's below."""
    parts = []
    for last in (False, True):
        ends = []
        for line, bins in zip(series, shown, strict=True):
            py = panel.py(bins.mean, line.right)
            known = np.flatnonzero(np.isfinite(py))
            if len(known):
                i = known[-1 if last else 0]
                y = float(py[i])
                ends.append(
                    (y, float(px[i]), number_text(float(bins.mean[i]), bare=False), line.style)
                )
        for rank, (y, x, label, style) in enumerate(sorted(ends)):
            shift = -FONT * 0.9 if rank == 0 else FONT * 1.65
            anchor = "end" if last else ""
            parts.append(f'<circle class="full s{style}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
            parts.append(text(x, y + shift, label, f"value ink s{style} {anchor}"))
    return "".join(parts)


def _chart(
    panel: Panel,
    px: np.ndarray,
    x: np.ndarray,
    series: Sequence[Series],
    values: Sequence[np.ndarray],
    parts: Sequence[str],
) -> Chart:
    hover = {
        "x": [f"{value:,.0f}" for value in x],
        "px": [round(float(value), 1) for value in px],
        "y": [[number_text(float(value), bare=False) for value in row] for row in values],
        "ends": [round(end, 1) for end in panel.y_ends],
    }
    summary = "; ".join(
        f"{line.label} from {number_text(first)} to {number_text(last)}"
        for line, (first, last) in zip(series, map(first_and_last, values), strict=True)
    )
    legend = tuple((line.label, line.style) for line in series)
    return Chart(panel.size, "".join(parts), summary, legend, hover)


def first_and_last(values: np.ndarray) -> tuple[float | None, float | None]:
    """Of the values that are known."""
    known = values[np.isfinite(values)]
    return (float(known[0]), float(known[-1])) if len(known) else (None, None)
