"""Charts are drawings of the numbers they were given, whatever these are."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from r1jax.monitor import charts
from r1jax.monitor.charts import Axis, Chart, Series
from r1jax.monitor.report_style import CHART_CSS
from r1jax.monitor.scales import make_scale, number_text, share_text, tick_labels

NAN = float("nan")


def points(chart: Chart, kind: str) -> list[list[tuple[float, float]]]:
    """Places along each path of a kind."""
    root = ElementTree.fromstring(chart.svg)
    paths = [e.get("d", "") for e in root.iter() if (e.get("class") or "").startswith(kind)]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]
        for path in paths
    ]


def texts(chart: Chart) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(chart.svg).iter() if e.text]


def test_a_line_goes_through_its_values_on_its_own_axis() -> None:
    x = np.arange(3.0)
    series = [
        Series("accuracy", np.array([0.0, 0.5, 1.0])),
        Series("length", np.array([0.0, 10.0, 20.0]), 1, right=True),
    ]
    chart = charts.line_chart(x, series, left=Axis("accuracy", 0.0, 1.0), right=Axis("tokens", 0.0))
    left, right = points(chart, "line")
    assert left == right  # 20 tokens are as high as an accuracy of 1: both are the axis's end
    assert left[0][1] > left[1][1] > left[2][1]
    assert left[1][1] == pytest.approx((left[0][1] + left[2][1]) / 2, abs=0.1)
    assert {"accuracy", "tokens", "1.0", "20"} <= set(texts(chart))


def test_lines_stay_inside_the_drawing() -> None:
    y = np.array([-3.7e6, 12.0, 9.9e6])
    chart = charts.line_chart(np.array([0.0, 5e4, 1e5]), [Series("loss", y)])
    for x, y in points(chart, "line")[0]:
        assert 0 <= x <= chart.size[0]
        assert 0 <= y <= chart.size[1]


def test_a_gap_lifts_the_pen_and_a_lone_point_is_a_dot() -> None:
    px = np.arange(6.0)
    path = charts.path_data(px, np.array([1.0, 2.0, NAN, 3.0, NAN, NAN]))
    assert path == "M0.0 1.0L1.0 2.0M3.0 3.0h0"


@pytest.mark.parametrize(
    "y",
    [
        [],
        [NAN, NAN],
        [1.0],
        [0.0, 0.0, 0.0],
        [-2.5, -2.5],
        [1e-9, 2e-9],
        [1e300, -1e300],
        [1.0, NAN, 3.0],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_odd_values_are_drawn_or_left_out(y: list[float], log: bool) -> None:
    values = np.array(y)
    chart = charts.line_chart(
        np.arange(float(len(y))), [Series("y", values)], left=Axis("y", log=log), end_values=True
    )
    assert "nan" not in chart.svg
    assert "inf" not in chart.svg
    ElementTree.fromstring(chart.svg)


def test_a_log_axis_has_a_tick_at_each_power_and_leaves_out_zero() -> None:
    chart = charts.line_chart(
        np.arange(4.0),
        [Series("gap", np.array([1e-8, 1e-7, 0.0, 1e-6]))],
        left=Axis("gap", log=True),
    )
    assert {"1e-8", "1e-7", "1e-6"} <= set(texts(chart))
    (line,) = points(chart, "line")
    assert len(line) == 3
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=0.2)


def test_thinning_keeps_means_and_extremes() -> None:
    x = np.arange(1000.0)
    y = np.where(x == 777, 50.0, 1.0)
    y[:100] = NAN
    shown_x, shown = charts.thin(x, [y], 10)
    assert len(shown.mean) == 10
    assert np.isnan(shown.mean[0])
    assert shown.high[7] == 50
    assert shown.low[7] == 1
    assert shown.mean[7] == pytest.approx(1.49)
    assert shown_x.mean[1] == pytest.approx(149.5)


def test_a_long_run_is_a_small_drawing() -> None:
    y = np.random.default_rng(0).random(50_000)
    chart = charts.line_chart(np.arange(50_000.0), [Series("a", y), Series("b", -y, 1)], most=200)
    assert len(chart.svg) < 20_000
    assert [len(line) for line in points(chart, "line")] == [200, 200]
    assert len(points(chart, "band")) == 2


def test_few_points_are_not_thinned() -> None:
    x, y = np.arange(5.0), np.array([3.0, NAN, 1.0, 4.0, 1.0])
    np.testing.assert_array_equal(charts.thin(x, [y], 5)[1].mean, y)


def test_bars_stack_to_the_total_and_cut_off_a_giant() -> None:
    rollout, update = np.full(20, 2.0), np.full(20, 1.0)
    update[0] = 98.0
    chart = charts.stacked_bars(np.arange(20.0), [Series("a", rollout), Series("b", update, 1)])
    lower, upper = (
        [tuple(map(float, m)) for m in re.findall(r"M([\d.]+) ([\d.]+)h[\d.]+V([\d.]+)", d)]
        for d in re.findall(r'<path class="bar[^"]*" d="([^"]*)"', chart.svg)
    )
    assert len(lower) == len(upper) == 20
    for (_, foot, top), (_, upper_foot, _) in zip(lower, upper, strict=True):
        assert foot > top
        assert upper_foot == pytest.approx(top, abs=0.11)
    assert "↑ 100" in texts(chart)
    assert min(top for *_, top in upper) >= 0


def test_dumbbells_put_shares_where_they_belong() -> None:
    chart = charts.dumbbells([("pass@1", 0.0, 1.0), ("maj@8", None, 0.5)])
    root = ElementTree.fromstring(chart.svg)
    at = [float(e.get("cx", "")) for e in root.iter() if e.tag.endswith("circle")]
    assert len(at) == 3
    assert at[2] == pytest.approx((at[0] + at[1]) / 2, abs=0.1)


def test_labels_are_escaped() -> None:
    chart = charts.line_chart(
        np.arange(2.0), [Series('"><script>', np.ones(2))], left=Axis("<b>&"), x_label="<i>"
    )
    assert "<script" not in chart.svg
    assert "<b>&" in texts(chart)


def test_a_standalone_figure_is_valid_xml_with_its_own_style() -> None:
    chart = charts.line_chart(np.arange(2.0), [Series("a", np.arange(2.0))])
    figure = charts.standalone(chart, CHART_CSS)
    root = ElementTree.fromstring(figure)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme" in figure


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (0.197, 0.99), (5.0, 13.0), (-0.39, 0.01), (0.0, 4e7), (1e-7, 3e-6)],
)
def test_ticks_are_few_round_and_cover_the_data(low: float, high: float) -> None:
    scale = make_scale([np.array([low, high])])
    assert scale.low <= low
    assert scale.high >= high
    assert 3 <= len(scale.ticks) <= 8
    assert len(set(scale.labels)) == len(scale.ticks)
    assert np.ptp(np.diff(scale.ticks)) == pytest.approx(0, abs=1e-9 * high)


def test_numbers_read_well() -> None:
    numbers = (0.0, 13.0, 12.98, 0.0109, 41260.2, 4.1e-7, 2e12, -0.5, NAN, None)
    assert [number_text(number) for number in numbers] == [
        "0", "13", "13.0", "0.0109", "41,260", "4.1e-7", "2e12", "−0.500", "–", "–",
    ]  # fmt: skip
    assert [share_text(v) for v in (1.0, 0.99999, 0.0, 1e-5, 0.25)] == [
        "1.000", ">0.999", "0.000", "<0.001", "0.250",
    ]  # fmt: skip
    assert tick_labels([0.0, 2e4, 4e4], 2e4) == ("0", "20k", "40k")
    assert tick_labels([-0.4, 0.0, 0.4], 0.4) == ("−0.4", "0", "0.4")
    assert tick_labels([0.25, 0.5], 0.25) == ("0.25", "0.50")
