"""Runs in processes of their own, shared by the tests of this folder."""

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
