"""Runs in processes of their own, shared by the tests of this folder."""

import os
import pathlib
from collections.abc import Iterator

import pytest
from runs import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Iterator[Runs]:
    with Runs(tmp_path_factory.mktemp("runs")) as runs:
        yield runs


@pytest.fixture(scope="session")
def whole_run(runs) -> pathlib.Path:
    """The workdir of a run that nothing disturbed, begun as a person begins it."""
    workdir = runs.folder / "whole"
    done = runs.finish(runs.command(workdir))
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def two_devices(runs) -> Iterator[Runs]:
    """Processes with one CPU device each, which find the tests' own modules; `run_alone` gives a
    run more."""
    before = dict(runs.env)
    runs.env["JAX_NUM_CPU_DEVICES"] = "1"
    tests = str(pathlib.Path(__file__).parents[1])
    runs.env["PYTHONPATH"] = os.pathsep.join(filter(None, [before.get("PYTHONPATH"), tests]))
    yield runs
    runs.env.clear()
    runs.env.update(before)
