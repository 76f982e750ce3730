"""TPU flash attention (Pallas splash kernels) over packed rows.

The kernel knows causal and local masks and segment ids, forward and fused backward. Segment ids do
not prune blocks: a row costs its whole causal triangle, so rows should be short or well filled.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array, Float, Int

from r1jax.mesh import fitting_spec
from r1jax.ops.blocked_attention import ATTENDED

LANES = 128  # the kernel's smallest block
BLOCK = 512


def attend_splash(
    q: Float[Array, "B N T H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T U"],
    segment_ids: Int[Array, "B T"],
    *,
    window: int | None,
    interpret: bool,
) -> Float[Array, "B N T U"]:
    """Queries come scaled; T is a multiple of 128. Rows and heads may lie split over a mesh."""

    def local(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
        kernel = _make_kernel(q.shape[1], q.shape[2], window, interpret)
        ids = splash.SegmentIds(segment_ids, segment_ids)
        return jax.vmap(kernel)(q, k, v, ids)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(q, k, v, segment_ids)
    heads = fitting_spec(mesh, k.shape, ("batch", "kv_heads", None, None))
    rows = jax.sharding.PartitionSpec(heads[0])
    return jax.shard_map(
        local, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
    )(q, k, v, segment_ids)


def _make_kernel(heads: int, length: int, window: int | None, interpret: bool) -> Any:
    shape = (length, length)
    if window is None:
        mask = splash.CausalMask(shape)
    else:
        mask = splash.LocalMask(shape, (window - 1, 0), 0)
    block = next(b for b in (BLOCK, BLOCK // 2, LANES) if length % b == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        use_fused_bwd_kernel=True,
    )
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )


def pad_places(x: Array, axis: int) -> Array:
    """Up to the kernel's smallest block, with zeros: segment 0."""
    extra = -x.shape[axis] % LANES
    return jnp.pad(x, [(0, extra if a == axis else 0) for a in range(x.ndim)])
