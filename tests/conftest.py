"""Strict tests: shapes checked, warnings are errors, no silent promotion, eight CPU devices.

XLA compiles with little optimization, in half the time; `helpers.full_compiles` is for tests that
look at what it makes of a program.
"""

import os

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
