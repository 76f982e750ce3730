"""Eight bits and a scale: how near that is, and that scales can be put on products instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops.attention import attend_cache
from r1jax.ops.kv_cache import LayerCache, count_bytes, grow, quantized, write
from r1jax.ops.linear import linear
from r1jax.ops.quant import Quantized, quantize

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_every_number_is_within_half_a_step_and_the_largest_is_kept():
    x = normal(5, 3, 40) * jnp.array([1e-3, 1.0, 50.0])[None, :, None]
    x = x.at[2].set(0)
    values, scales = quantize(x, (2,))
    assert (values.dtype, scales.dtype, scales.shape) == (jnp.int8, jnp.float32, (5, 3))
    steps = np.asarray(scales)[..., None]
    error = np.abs(np.asarray(values) * steps - np.asarray(x))
    assert (error <= steps / 2 * 1.001).all()
    assert error.max() > 0.1
    kept = np.delete(np.asarray(values), 2, axis=0)
    assert (np.abs(kept).max(axis=-1) == 127).all()
    assert not np.asarray(values[2]).any()  # zeros, and no NaN
    assert np.isfinite(scales).all()


@pytest.mark.parametrize(("shape", "axes"), [((6, 4), 1), ((6, 2, 3), 1), ((2, 3, 5), 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_with_int8_is_the_product_with_what_it_stands_for(shape, axes, dtype):
    values, scales = quantize(normal(*shape), tuple(range(axes)))
    whole = np.asarray(values) * np.asarray(scales)
    x = normal(7, 2, *shape[:axes]).astype(dtype)
    found = linear(x, Quantized(values, scales), axes)
    assert found.dtype == x.dtype
    wanted = np.tensordot(np.float64(x), np.float64(whole), axes)
    np.testing.assert_allclose(np.float64(found), wanted, atol=1e-5 if dtype == "float32" else 0.1)


def as_floats(cache):
    keys, values, *scales = (leaf.astype(jnp.float32) for leaf in jax.tree.leaves(cache))
    return LayerCache(keys * scales[0][..., None], values * scales[1][..., None])


@pytest.mark.parametrize("units", [4, 2])
def test_attention_reads_int8_as_what_it_stands_for(units):
    """Prefixes shared and not; the tokens just written are read in int8 too."""
    suffix = quantized(LayerCache(normal(4, 2, 6, 8), normal(4, 2, 6, 8)))
    prefix = quantized(LayerCache(normal(units, 2, 5, 8), normal(units, 2, 5, 8)))
    filled = jnp.array([0, 1, 3, 4])
    new = normal(4, 2, 2, 8), normal(4, 2, 2, 8)
    suffix = write(suffix, *new, filled)
    lengths = {"prefix_lengths_R": jnp.array([5, 5, 2, 2]), "filled_R": filled}
    q = normal(4, 2, 4, 8)
    found = attend_cache(q, prefix, suffix, **lengths)
    wanted = attend_cache(q, as_floats(prefix), as_floats(suffix), **lengths)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    row = as_floats(suffix).keys[2, :, 3:5]
    np.testing.assert_allclose(row, new[0][2].swapaxes(0, 1), atol=0.02)


def test_a_cache_of_int8_is_a_quarter_and_its_scales():
    cache = LayerCache(normal(2, 3, 5, 64), normal(2, 3, 5, 64))
    small = grow([quantized(cache)], 8)
    assert count_bytes(small) == 2 * 2 * 3 * 8 * (64 + 4)
    assert count_bytes(grow([cache], 8)) == 2 * 2 * 3 * 8 * 64 * 4
    assert jax.tree.map(lambda leaf: leaf.shape[2], small) == [LayerCache(8, 8, 8, 8)]
