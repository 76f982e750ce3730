"""The decoding cache is written at each row's own slot and nowhere else."""

import jax
import numpy as np

from r1jax.ops import kv_cache


def test_write_puts_each_row_at_its_own_slot():
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(2, 3, 2, 5, 4)).astype(np.float32)
    k, v = rng.normal(size=(2, 3, 2, 4)).astype(np.float32)
    slots = np.array([4, 0, 2])
    written = jax.jit(kv_cache.write)(kv_cache.LayerCache(keys, values), k, v, slots)
    for got, old, new in ((written.keys, keys, k), (written.values, values, v)):
        wanted = old.copy()
        wanted[np.arange(3), :, slots] = new
        np.testing.assert_array_equal(got, wanted)
