"""What the TPU compiler makes of decoding: no copy of a cache, little scratch memory."""

import functools
import math
import os
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.models.transformer import init_params
from r1jax.ops.kv_cache import LayerCache, count_bytes
from r1jax.ops.sampling import SamplingArrays, SamplingParams
from r1jax.rollout import decode

pytestmark = pytest.mark.aot

# Qwen3-1.7B's layers, four of its twenty-eight.
CONFIG = models.ModelConfig(
    vocab_size=151_936,
    layers=4,
    width=2048,
    heads=16,
    kv_heads=8,
    head_dim=128,
    ffn=6144,
    rope_theta=1e6,
    qk_norm=True,
    dtype="bfloat16",
)
SLOTS, SAMPLES, PROMPT, ROOM = 64, 8, 512, 4096
# data, fsdp, expert, tensor
SLICES = {"v5e:1x1": (1, 1, 1, 1), "v5e:4x4": (4, 2, 1, 2)}
# Scratch memory is the sampler's: so many arrays of the slots' logits at most.
LOGITS_ARRAYS = 10


def make_topology_mesh(topology, shape):
    # Only the compiler is used: several processes may load it.
    settings = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    for name, value in {**settings, "TPU_WORKER_HOSTNAMES": "localhost"}.items():
        os.environ.setdefault(name, value)
    pytest.importorskip("libtpu", exc_type=ImportError)
    from jax.experimental import topologies

    options = {"chips_per_host_bounds": (1, 1, 1)} if topology == "v5e:1x1" else {}
    devices = topologies.get_topology_desc(topology, "tpu", **options).devices
    return jax.make_mesh(shape, mesh_lib.AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)


def placed(mesh, tree):
    """Shapes with the shardings that the programs themselves pin."""
    whole = NamedSharding(mesh, PartitionSpec())

    def place(leaf):
        if isinstance(leaf, LayerCache):
            return jax.tree.map(place_cache, leaf)
        return shape(leaf, whole)

    def place_cache(leaf):
        logical = ("batch", "kv_heads", None, None)[: leaf.ndim]
        spec = mesh_lib.fitting_spec(mesh, leaf.shape, logical)
        return shape(leaf, NamedSharding(mesh, spec))

    def shape(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree, is_leaf=lambda leaf: isinstance(leaf, LayerCache))


def compile_decode(slice_name, unit, *, int8=False):
    variant = decode.Variant(int8_cache=int8)
    mesh = make_topology_mesh(slice_name, SLICES[slice_name])
    module = models.Transformer(CONFIG)
    params = jax.eval_shape(functools.partial(init_params, module), 0)
    params = jax.eval_shape(functools.partial(decode.prepare_params, CONFIG, int8=int8), params)
    scalar = functools.partial(jax.ShapeDtypeStruct, ())
    loop = jax.eval_shape(
        lambda: decode.empty_loop(
            decode.empty_slots(CONFIG, SLOTS, SLOTS // unit, PROMPT, ROOM, variant=variant),
            decode.empty_outputs(4 * SLOTS, ROOM),
        )
    )
    bank = jax.eval_shape(lambda: decode.empty_bank(CONFIG, 32, SAMPLES, PROMPT, variant=variant))
    sampling = SamplingArrays.of(SamplingParams(), CONFIG.vocab_size)
    numbers = {"units": scalar(jnp.int32), "more": scalar(jnp.bool_), "chunk": scalar(jnp.int32)}
    with mesh_lib.use(mesh):
        lowered = decode.decode.lower(
            CONFIG,
            *placed(mesh, (params, loop, bank, sampling)),
            **placed(mesh, numbers),
            variant=variant,
        )
        return lowered.compile(), loop


@pytest.mark.parametrize("int8", [False, True], ids=["bfloat16", "int8"])
@pytest.mark.parametrize("unit", [1, SAMPLES], ids=["a copy each", "shared prompts"])
@pytest.mark.parametrize("slice_name", SLICES)
def test_decoding_copies_no_cache(slice_name, unit, int8):
    """Nor does it make floats of caches or weights of int8: there is no room for them."""
    compiled, loop = compile_decode(slice_name, unit, int8=int8)
    memory = compiled.memory_analysis()
    devices = math.prod(SLICES[slice_name])
    caches = count_bytes([*loop.slots.prefix, *loop.slots.suffix]) // devices
    assert memory.alias_size_in_bytes >= caches
    print(f"scratch {memory.temp_size_in_bytes / 1e6:.0f} MB, caches {caches / 1e6:.0f} MB a chip")
    assert memory.temp_size_in_bytes < LOGITS_ARRAYS * SLOTS * CONFIG.vocab_size * 4
    rows, heads, room, size = loop.slots.suffix[0].keys.shape
    *by_rows, by_heads = SLICES[slice_name]
    shape = f"{rows // math.prod(by_rows)},{heads // by_heads},{room},{size}"
    hlo = compiled.as_text()
    assert f"{'s8' if int8 else 'bf16'}[{shape}]" in hlo
    # The root of a computation is a fusion's: there a copy is another view of the same bytes.
    assert not re.search(rf"\n  %\S+ = (bf16|s8|f32)\[{shape}\]\S* copy\(", hlo)
    carried = [line.split(" while(")[0] for line in hlo.splitlines() if " while(" in line]
    assert not int8 or not any(f"bf16[{shape}]" in line for line in carried)
