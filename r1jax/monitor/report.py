"""The run as one HTML page."""

import pathlib


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "report.html"
