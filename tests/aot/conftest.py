"""What a TPU's compiler makes of a program is looked at as a user gets it."""

import pytest
from helpers import full_compiles


@pytest.fixture(scope="module", autouse=True)
def _full_compiles():
    with full_compiles():
        yield


@pytest.fixture(autouse=True)
def _flags_of_tpus(monkeypatch):
    """libtpu reads XLA_FLAGS too, and ends the process at one that only XLA:CPU has."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
