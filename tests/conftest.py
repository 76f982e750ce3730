"""Strict tests: shapes checked, warnings are errors, no silent promotion, eight CPU devices.

XLA compiles with little optimization, in half the time; `helpers.full_compiles` is for tests that
look at what it makes of a program.
"""

import os
import pathlib

# Before anything imports jax: tests never take an accelerator by accident.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook("r1jax", "beartype.beartype")

# Helpers that assert explain themselves as tests do.
pytest.register_assert_rewrite("runs")


# Tests that look at what is left on the machine, and those whose workers they would see.
LOOKING_AROUND = ("rewards", "training/test_grading.py", "pipeline/test_rewards.py")
STARTING_WORKERS = ("pipeline/test_start_from_checkpoint.py",)


def pytest_collection_modifyitems(items):
    """Of several processes, one runs a whole file, and one all tests that look around."""
    for item in items:
        name = item.path.relative_to(pathlib.Path(__file__).parent).as_posix()
        together = name.startswith((*LOOKING_AROUND, *STARTING_WORKERS))
        item.add_marker(pytest.mark.xdist_group("rewards" if together else name))
