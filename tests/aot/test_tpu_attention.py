"""Attention compiled for a TPU topology, on a machine without a TPU."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_buffer

from r1jax import mesh as mesh_lib
from r1jax.ops import attention

pytestmark = pytest.mark.aot


@pytest.fixture
def tpu_mesh(monkeypatch):
    """Four v5e chips: two for rows, two for heads."""
    # Only the compiler is used: several processes may load it.
    settings = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    for name, value in {**settings, "TPU_WORKER_HOSTNAMES": "localhost"}.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    pytest.importorskip("libtpu", exc_type=ImportError)
    from jax.experimental import topologies

    devices = topologies.get_topology_desc("v5e:2x2", "tpu").devices
    sizes = {"data": 2, "tensor": 2}
    shape = [sizes.get(axis, 1) for axis in mesh_lib.AXES]
    types = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.sharding.Mesh(np.array(devices).reshape(shape), mesh_lib.AXES, axis_types=types)


@pytest.mark.parametrize("window", [None, 256, "of each layer"])
def test_splash_compiles_for_a_tpu_and_makes_no_scores(tpu_mesh, window):
    rows, length, heads, kv_heads, width = 4, 2048, 8, 4, 128

    def array(shape, dtype, *logical):
        sharding = jax.sharding.NamedSharding(tpu_mesh, mesh_lib.spec(*logical))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    qkv = [
        array((rows, length, n, width), jnp.bfloat16, "batch", None, "heads", None)
        for n in (heads, kv_heads, kv_heads)
    ]
    ids = array((rows, length), jnp.int32, "batch", None)

    def total(q, k, v, ids, size):
        options = {"window": window, "backend": "splash"}
        if window == "of each layer":
            options |= {"window": size, "windows": (256, None)}
        out = attention.attend(q, k, v, segment_ids_BT=ids, **options)
        return jnp.sum(out.astype(jnp.float32))

    size = array((), jnp.int32)
    with jax.set_mesh(tpu_mesh):
        compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*qkv, ids, size).compile()
    hlo = compiled.as_text()
    assert "tpu_custom_call" in hlo
    # What one chip's scores would be, were they made.
    assert largest_buffer(hlo) < (rows // 2) * (heads // 2) * length**2 // 2
