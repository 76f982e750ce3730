"""The run as one HTML page, and its main figure as a picture of its own."""

import os
import pathlib

from r1jax.errors import UserError
from r1jax.monitor import charts
from r1jax.monitor.report_charts import HERO, hero_figure
from r1jax.monitor.report_data import read_run
from r1jax.monitor.report_page import page_html
from r1jax.monitor.report_style import CHART_CSS

FIGURE_SIZE = (760.0, 320.0)  # about the width of a README, so that its labels read well there


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    """Write `report.html` into a run's workdir and return its path.

    The page needs no network. It shows what the run has logged so far and says what is missing.
    """
    path = workdir / "report.html"
    write_text(path, page_html(read_run(workdir)))
    return path


def write_figure(workdir: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Write accuracy and length over the RL steps as an SVG file that stands alone."""
    figure = hero_figure(read_run(workdir), [FIGURE_SIZE])
    if figure is None:
        names = " or ".join(line.metric for line in HERO)
        raise UserError(f"{workdir / 'metrics.jsonl'}: holds no {names}, so there is no figure")
    write_text(path, charts.standalone(figure.charts[0], CHART_CSS))
    return path


def write_text(path: pathlib.Path, content: str) -> None:
    """Whole or not at all: a reader never sees half a file."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_bytes(content.encode("utf-8", "replace"))
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
