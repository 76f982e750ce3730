"""Runs in processes of their own, shared by the tests of this folder."""

import pathlib

import pytest
from runs import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def whole_run(runs) -> pathlib.Path:
    """The workdir of a run that nothing disturbed."""
    workdir = runs.folder / "whole"
    done = runs.run(workdir)
    assert done.returncode == 0, done.stderr
    return workdir
