"""Attention over packed rows and over a decoding cache: float32 softmax, grouped KV heads."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a row with nothing to attend to (padding) stays free of NaN.
MASKED = -1e30


def packed_mask(
    segment_ids_BT: Int[Array, "B T"], window: int | Int[Array, ""] | None = None
) -> Bool[Array, "B T T"]:
    """True where query t may look at key s: same segment, s <= t, within the window."""
    places = jnp.arange(segment_ids_BT.shape[1])
    causal = places[:, None] >= places[None, :]
    if window is not None:
        causal &= places[:, None] - places[None, :] < window
    same = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same & causal[None]


def attend(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K V"],
    *,
    segment_ids_BT: Int[Array, "B T"],
    window: int | Int[Array, ""] | None = None,
    scale: float | None = None,
    backend: str = "xla",
) -> Float[Array, "B T N V"]:
    """Causal self-attention that never crosses from one segment of a row into another.

    With a `window`, a token sees itself and the `window - 1` before it; it may be traced, so that
    layers of different windows can share a scan.
    """
    if backend != "xla":
        raise ValueError(f"attention backend {backend!r} is unknown; known: 'xla'")
    rows, length, heads, head_dim = q_BTNH.shape
    kv_heads = k_BTKH.shape[2]
    scale = head_dim**-0.5 if scale is None else scale
    q = q_BTNH.reshape(rows, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum(
        "btkgh,bskh->bkgts", q, k_BTKH, preferred_element_type=jnp.float32
    ) * jnp.float32(scale)
    mask = packed_mask(segment_ids_BT, window)
    scores = jnp.where(mask[:, None, None], scores, jnp.float32(MASKED))
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BTKH.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v_BTKH)
    return out.reshape(rows, length, heads, v_BTKH.shape[-1])


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
