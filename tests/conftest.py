"""Strict tests: shapes checked, warnings are errors, no silent promotion, eight CPU devices.

XLA compiles with little optimization, in half the time; `helpers.full_compiles` is for tests that
look at what it makes of a program.
"""

import fcntl
import gc
import importlib.metadata
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

# Before anything imports jax: tests never take an accelerator by accident.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA:CPU's older emitters compile in two thirds of the time; jaxlib 0.11 no longer has them.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
    )

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook(
    [
        f"r1jax.{room}"
        for room in ("mesh", "models", "objectives", "ops", "rollout", "training", "types")
    ],
    "beartype.beartype",
)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Every program compiled for a CPU takes several entries of the process's memory map, and Linux
    has room for 65,530: beyond that the compiler crashes. All tests together have more."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _sandboxes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs are judged in folders and under names that all processes of this machine share: who
    looks at what is left of its own lets nobody else start any."""
    if request.path.parent.name != "rewards":
        yield
        return
    alone = request.path.name in _LOOK_AROUND
    with open(pathlib.Path(tempfile.gettempdir()) / "tests_of_rewards.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


# Rooms whose tests take long; pipeline first, which is one process's alone.
_ORDER = {"pipeline": 0, "rollout": 1, "training": 2, "models": 3, "tests": 4}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first: at the end both processes have short files to share."""
    items.sort(key=lambda item: _ORDER.get(item.path.parent.name, len(_ORDER)))


def pytest_collection_finish() -> None:
    """What is there for ever need not be looked through again and again."""
    gc.collect()
    gc.freeze()


# Files whose tests look at what is left on the machine, processes or sockets.
_LOOK_AROUND = {"test_code.py", "test_code_attacks.py", "test_pool.py"}
# Runs of minutes that share nothing and judge nothing outside their own processes.
_APART = {"test_learning.py"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two processes share the tests; which of them go to the same one, one after another.

    Those of a file, for what they share. Those of `pipeline`, whose runs would be made twice, with
    those that look around the machine, where these runs would leave something to be seen.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = pathlib.PurePath(nodeid.split("::")[0])
            alone = path.parent.name == "pipeline" and path.name not in _APART
            alone |= path.name in _LOOK_AROUND
            return "machine" if alone else str(path)

    config.option.loadscopereorder = False  # as collected, not by the number of tests
    return Scheduling(config, log)


# Helpers that assert explain themselves as tests do.
pytest.register_assert_rewrite("runs")
