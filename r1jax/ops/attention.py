"""Attention over packed rows and over a decoding cache: float32 softmax, grouped KV heads."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.ops.blocked_attention import MASKED, Places, attend_blocks, sees

BLOCK = 128  # places; measured on CPU: 64 to 256 are within a tenth, less or more is slower


def packed_mask(
    segment_ids_BT: Int[Array, "B T"],
    window: int | Int[Array, ""] | None = None,
    *,
    prefix_ids_BT: Int[Array, "B T"] | None = None,
    positions_BT: Int[Array, "B T"] | None = None,
) -> Bool[Array, "B T T"]:
    """True where query t may look at key s: same segment or prefix, s <= t, within the window."""
    places = make_places(segment_ids_BT, prefix_ids_BT, positions_BT)
    return sees(places, places, window)


def make_places(
    segment_ids_BT: Array, prefix_ids_BT: Array | None, positions_BT: Array | None
) -> Places:
    index = jnp.arange(segment_ids_BT.shape[1])
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(index[None], segment_ids_BT.shape)
    if prefix_ids_BT is None:
        prefix_ids_BT = segment_ids_BT
    arrays = (jnp.asarray(x) for x in (segment_ids_BT, prefix_ids_BT, positions_BT))
    return Places(index, *arrays)


def can_share_prompts(backend: str) -> bool:
    """Whether the backend honours `prefix_ids`."""
    return backend == "xla"


def attend(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    segment_ids_BT: Int[Array, "B T"],
    prefix_ids_BT: Int[Array, "B T"] | None = None,
    positions_BT: Int[Array, "B T"] | None = None,
    window: int | Int[Array, ""] | None = None,
    scale: float | None = None,
    backend: str = "xla",
    block: int = BLOCK,
) -> Float[Array, "B T N U"]:
    """Causal self-attention that never crosses from one segment of a row into another.

    A place also sees the segment that `prefix_ids` names: a prompt that several responses share.
    With a `window`, a token sees itself and the `window - 1` positions before it; it may be traced,
    so that layers of different windows can share a scan. Positions are places unless given.
    """
    if backend != "xla":
        raise ValueError(f"attention backend {backend!r} is unknown; known: 'xla'")
    rows, length, heads, head_dim = q_BTNH.shape
    kv_heads = k_BTKH.shape[2]
    scale = head_dim**-0.5 if scale is None else scale
    block = _even_block(length, block)
    extra = -length % block
    places = make_places(segment_ids_BT, prefix_ids_BT, positions_BT)
    places = Places(
        jnp.arange(length + extra), *(jnp.pad(x, ((0, 0), (0, extra))) for x in places[1:])
    )

    def rows_of_heads(x_BTKH: Array) -> Array:
        return jnp.pad(jnp.swapaxes(x_BTKH, 1, 2), ((0, 0), (0, 0), (0, extra), (0, 0)))

    q = rows_of_heads(q_BTNH * jnp.asarray(scale, q_BTNH.dtype))
    out = attend_blocks(
        q.reshape(rows, kv_heads, heads // kv_heads, length + extra, head_dim),
        rows_of_heads(k_BTKH),
        rows_of_heads(v_BTKU),
        places,
        window=window,
        block=block,
    )
    out = out.reshape(rows, heads, length + extra, -1)[:, :, :length]
    return jnp.swapaxes(out, 1, 2)


def _even_block(length: int, block: int) -> int:
    """The block nearest below `block` that cuts a row evenly, but for a few places."""
    blocks = -(-length // block)
    return -(-length // (8 * blocks)) * 8


def attend_cache(
    q_RNH: Float[Array, "R N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    *,
    lengths_R: Int[Array, " R"],
    window: int | None = None,
    scale: float | None = None,
) -> Float[Array, "R N H"]:
    """One query per row against the first `lengths_R` slots of its cache."""
    rows, heads, head_dim = q_RNH.shape
    kv_heads, slots = k_RKSH.shape[1], k_RKSH.shape[2]
    scale = head_dim**-0.5 if scale is None else scale
    q = q_RNH.reshape(rows, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum(
        "rkgh,rksh->rkgs", q, k_RKSH, preferred_element_type=jnp.float32
    ) * jnp.float32(scale)
    place = jnp.arange(slots)[None, :]
    visible = place < lengths_R[:, None]
    if window is not None:
        visible &= place >= lengths_R[:, None] - window
    scores = jnp.where(visible[:, None, None], scores, jnp.float32(MASKED))
    weights = jax.nn.softmax(scores, axis=-1).astype(v_RKSH.dtype)
    out = jnp.einsum("rkgs,rksh->rkgh", weights, v_RKSH)
    return out.reshape(rows, heads, head_dim)
