"""The decoding cache is written at each row's own slots and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import kv_cache

RNG = np.random.default_rng(0)
KEYS, VALUES = RNG.normal(size=(2, 3, 2, 5, 4)).astype(np.float32)
CACHE = kv_cache.LayerCache(KEYS, VALUES)
TURNED = kv_cache.turned(CACHE)


@pytest.fixture(params=[False, True], ids=["keys by place", "keys turned"])
def kept(request):
    """(how a cache is kept, what gives it back as it is written here)"""
    if request.param:
        return kv_cache.turned, lambda cache: kv_cache.LayerCache(
            np.swapaxes(cache.keys, 2, 3), cache.values
        )
    return lambda cache: cache, lambda cache: cache


@pytest.mark.parametrize("count", [1, 3])
def test_write_puts_each_row_at_its_own_slots(count, kept):
    keep, read = kept
    k, v = RNG.normal(size=(2, 3, count, 2, 4)).astype(np.float32)
    slots = np.array([2, 0, 1])
    written = read(jax.jit(kv_cache.write)(keep(CACHE), k, v, slots))
    for got, old, new in ((written.keys, KEYS, k), (written.values, VALUES, v)):
        wanted = old.copy()
        for row, slot in enumerate(slots):
            wanted[row, :, slot : slot + count] = new[row].swapaxes(0, 1)
        np.testing.assert_array_equal(got, wanted)


def test_copy_row_fills_the_first_slots_of_one_row(kept):
    keep, read = kept
    short = kv_cache.LayerCache(KEYS[:, :, :3] + 1, VALUES[:, :, :3] + 1)
    places = np.int32(2), np.int32(1)
    copied = read(jax.jit(kv_cache.copy_row)([keep(CACHE)], [keep(short)], *places)[0])
    for got, old in ((copied.keys, KEYS), (copied.values, VALUES)):
        wanted = old.copy()
        wanted[2, :, :3] = old[1, :, :3] + 1
        np.testing.assert_array_equal(got, wanted)


def test_rows_are_put_where_they_belong_and_past_the_last_nowhere(kept):
    keep, read = kept
    short = kv_cache.LayerCache(KEYS[:, :, :3] + 1, VALUES[:, :, :3] + 1)
    put = jax.jit(kv_cache.put_rows)([keep(CACHE)], [short], np.array([2, 3, 0]))
    (found,) = map(read, put)
    for got, old in ((found.keys, KEYS), (found.values, VALUES)):
        wanted = old.copy()
        wanted[2, :, :3], wanted[0, :, :3] = old[0, :, :3] + 1, old[2, :, :3] + 1
        np.testing.assert_array_equal(got, wanted)


def test_taken_and_grown_caches_keep_what_they_hold(kept):
    keep, read = kept
    grown = read(kv_cache.grow(kv_cache.take_rows([keep(CACHE)], jnp.array([2, 0])), 7)[0])
    assert grown.keys.shape == (2, 2, 7, 4)
    np.testing.assert_array_equal(grown.keys[:, :, :5], KEYS[[2, 0]])
    assert not np.asarray(grown.values[:, :, 5:]).any()


def test_bytes_are_counted():
    assert kv_cache.count_bytes([CACHE, TURNED]) == 4 * KEYS.nbytes
    for cache in (CACHE, TURNED):
        assert (cache.rows, cache.heads, cache.places) == KEYS.shape[:3]
