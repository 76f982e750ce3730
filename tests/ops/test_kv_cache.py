"""The decoding cache is written at each row's own slots and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import kv_cache

RNG = np.random.default_rng(0)
KEYS, VALUES = RNG.normal(size=(2, 3, 2, 5, 4)).astype(np.float32)
CACHE = kv_cache.LayerCache(KEYS, VALUES)


@pytest.mark.parametrize("count", [1, 3])
def test_write_puts_each_row_at_its_own_slots(count):
    k, v = RNG.normal(size=(2, 3, count, 2, 4)).astype(np.float32)
    slots = np.array([2, 0, 1])
    written = jax.jit(kv_cache.write)(CACHE, k, v, slots)
    for got, old, new in ((written.keys, KEYS, k), (written.values, VALUES, v)):
        wanted = old.copy()
        for row, slot in enumerate(slots):
            wanted[row, :, slot : slot + count] = new[row].swapaxes(0, 1)
        np.testing.assert_array_equal(got, wanted)


def test_copy_row_fills_the_first_slots_of_one_row():
    short = kv_cache.LayerCache(KEYS[:, :, :3] + 1, VALUES[:, :, :3] + 1)
    copied = jax.jit(kv_cache.copy_row)([CACHE], [short], np.int32(2), np.int32(1))[0]
    wanted = KEYS.copy()
    wanted[2, :, :3] = KEYS[1, :, :3] + 1
    np.testing.assert_array_equal(copied.keys, wanted)


def test_taken_and_grown_caches_keep_what_they_hold():
    grown = kv_cache.grow(kv_cache.take_rows([CACHE], jnp.array([2, 0])), 7)[0]
    assert grown.keys.shape == (2, 2, 7, 4)
    np.testing.assert_array_equal(grown.keys[:, :, :5], KEYS[[2, 0]])
    assert not np.asarray(grown.values[:, :, 5:]).any()


def test_bytes_are_counted():
    assert kv_cache.count_bytes([CACHE, CACHE]) == 4 * KEYS.nbytes
