"""Attention over packed rows and over a decoding cache: float32 softmax, grouped KV heads."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r1jax.ops import cudnn
from r1jax.ops.blocked_attention import ATTENDED as ATTENDED
from r1jax.ops.blocked_attention import MASKED, Places, attend_blocks, sees
from r1jax.ops.kv_cache import LayerCache

ENDLESS = np.iinfo(np.int32).max  # the window, where it is a number, of a layer that has none
BLOCK = 128  # places; measured on CPU: 64 to 256 are within a tenth, less or more is slower
# A response that shares its prompt sees the prompt and itself: half of what blocks of 128 visit is
# masked. On a CPU that is worth more than the fewer visits.
CPU_SHARED_BLOCK = 64


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


# `splash` runs on TPUs; `splash_interpret` is the same kernel on any device, slowly: for tests.
# `cudnn` runs on Hopper GPUs.
BACKENDS = ("xla", "splash", "splash_interpret", "cudnn")


def can_share_prompts(backend: str) -> bool:
    """Whether the backend honours `prefix_ids`."""
    return backend in ("xla", "cudnn")


def missing(backend: str, device: Any) -> str | None:
    """What the device lacks for the backend, in words; None where it lacks nothing."""
    if backend == "splash" and device.platform != "tpu":
        return f"needs a TPU, not {device.device_kind!r}"
    return cudnn.missing(device) if backend == "cudnn" else None


def attend(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    segment_ids_BT: Int[Array, "B T"],
    prefix_ids_BT: Int[Array, "B T"] | None = None,
    positions_BT: Int[Array, "B T"] | None = None,
    window: int | Int[Array, ""] | None = None,
    windows: Sequence[int | None] = (),
    scale: float | None = None,
    backend: str = "xla",
    block: int | None = None,
) -> Float[Array, "B T N U"]:
    """Causal self-attention that never crosses from one segment of a row into another.

    A place also sees the segment that `prefix_ids` names: a prompt that several responses share.
    With a `window`, a token sees itself and the `window - 1` positions before it; it may be traced,
    so that layers of different windows can share a scan: `windows` are then those it can be, for
    backends that compile each. Positions are places unless given.

    A backend that cannot honour what is asked for refuses.
    """
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is unknown; known: {', '.join(BACKENDS)}")
    scale = q_BTNH.shape[-1] ** -0.5 if scale is None else scale
    q_BTNH = q_BTNH * jnp.asarray(scale, q_BTNH.dtype)
    places = make_places(segment_ids_BT, prefix_ids_BT, positions_BT)
    if backend == "cudnn":
        problem = cudnn.missing(jax.devices()[0]) or cudnn.refusal(q_BTNH, v_BTKU)
        if problem:
            raise ValueError(f"attention backend 'cudnn': {problem}; or use 'xla'")
        return cudnn.attend_cudnn(q_BTNH, k_BTKH, v_BTKU, sees(places, places, window))
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q_BTNH, k_BTKH, v_BTKU))
    if backend == "xla":
        shared = prefix_ids_BT is not None
        block = block or block_places(q.shape[2], jax.default_backend(), shared=shared)
        out = _attend_xla(q, k, v, places, window, block)
    else:
        _require_splash(prefix_ids_BT, window, windows, q.shape[-1], v.shape[-1])
        out = _attend_splash(q, k, v, segment_ids_BT, window, windows, backend)
    return jnp.swapaxes(out, 1, 2)


def _attend_xla(q, k, v, places, window, block) -> Array:
    rows, heads, length, head_dim = q.shape
    kv_heads = k.shape[1]
    block = _even_block(length, block)
    extra = -length % block
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, extra), (0, 0))) for x in (q, k, v))
    places = Places(
        jnp.arange(length + extra), *(jnp.pad(x, ((0, 0), (0, extra))) for x in places[1:])
    )
    q = q.reshape(rows, kv_heads, heads // kv_heads, length + extra, head_dim)
    out = attend_blocks(q, k, v, places, window=window, block=block)
    return out.reshape(rows, heads, length + extra, -1)[:, :, :length]


def _require_splash(prefix_ids, window, windows, head_dim: int, value_dim: int) -> None:
    problems = [
        (prefix_ids is not None, "shared prompts: set batch.share_prompts to False"),
        (isinstance(window, jax.Array) and not windows, "a window of any size"),
        (head_dim != value_dim, f"values of {value_dim} beside keys of {head_dim}"),
    ]
    for wrong, what in problems:
        if wrong:
            raise ValueError(f"attention backend 'splash' cannot do {what}; use 'xla'")


def _attend_splash(q, k, v, segment_ids, window, windows, backend) -> Array:
    # Imported where it is used: it brings Pallas along.
    from r1jax.ops import splash

    length = q.shape[2]
    padded = [*(splash.pad_places(x, 2) for x in (q, k, v)), splash.pad_places(segment_ids, 1)]

    def attend_within(window: int | None) -> Callable[..., Array]:
        interpret = backend == "splash_interpret"
        return functools.partial(splash.attend_splash, window=window, interpret=interpret)

    if isinstance(window, jax.Array):
        kinds = sorted(set(windows), key=lambda size: (size is None, size))
        # The mask is part of a kernel: one for each size, of which a layer runs its own.
        sizes = jnp.array([ENDLESS if size is None else size for size in kinds])
        out = jax.lax.switch(jnp.argmax(sizes == window), [*map(attend_within, kinds)], *padded)
    else:
        out = attend_within(window)(*padded)
    return out[:, :, :length]


def block_places(length: int, platform: str, *, shared: bool) -> int:
    """Places of a row of this length that backend `xla` visits at once."""
    return _even_block(length, CPU_SHARED_BLOCK if shared and platform == "cpu" else BLOCK)


def _even_block(length: int, block: int) -> int:
    """The block nearest below `block` that cuts a row evenly, but for a few places."""
    blocks = -(-length // block)
    return -(-length // (8 * blocks)) * 8


def attend_cache(
    q_RCNH: Float[Array, "R C N H"],
    prefix: LayerCache | None,
    suffix: LayerCache,
    *,
    prefix_lengths_R: Int[Array, " R"],
    filled_R: Int[Array, " R"],
    window: int | None = None,
    scale: float | None = None,
) -> Float[Array, "R C N _"]:
    """C new tokens per row against what the row has read: a prefix, then its own suffix.

    A prefix may be shared: R / (rows of the prefix) neighbouring rows look at the same one, and
    its keys and values are read once for all of them. The suffix holds `filled_R` tokens and then
    the new ones, whose own keys and values are already written.
    """
    rows, count, heads, head_dim = q_RCNH.shape
    kv_heads = suffix.heads
    scale = head_dim**-0.5 if scale is None else scale
    q = (q_RCNH * jnp.asarray(scale, q_RCNH.dtype)).reshape(
        rows, count, kv_heads, heads // kv_heads, head_dim
    )
    score = functools.partial(_scores, jnp.transpose(q, (0, 2, 3, 1, 4)))
    places_RC = filled_R[:, None] + jnp.arange(count)[None]  # of the new tokens in the suffix
    own = jnp.arange(suffix.places)
    visible = own[None, None] <= places_RC[:, :, None]
    if window is not None:
        visible &= own[None, None] > places_RC[:, :, None] - window
    blocks = [(score(suffix, visible), suffix)]
    if prefix is not None:
        read = jnp.arange(prefix.places)
        visible = read[None, None] < prefix_lengths_R[:, None, None]
        if window is not None:
            positions_RC = prefix_lengths_R[:, None] + places_RC
            visible &= read[None, None] > positions_RC[:, :, None] - window
        visible = jnp.broadcast_to(visible, (rows, count, read.size))
        blocks.append((score(prefix, visible), prefix))
    out = _mix(blocks, q.dtype).astype(q.dtype)
    return jnp.transpose(out, (0, 3, 1, 2, 4)).reshape(rows, count, heads, out.shape[-1])


def _scores(
    q_RKgCH: Float[Array, "R K g C H"],
    cache: LayerCache,
    visible_RCS: Bool[Array, "R C S"],
) -> Float[Array, "R K g C S"]:
    """Masked scores; the R / U rows that share keys make one product with them."""
    product = "ukmh,ukhs->ukms" if cache.turned else "ukmh,uksh->ukms"
    scores = _by_unit(q_RKgCH, cache.keys, product)
    scores = _scaled(scores, cache.key_scales)
    return jnp.where(visible_RCS[:, None, None], scores, jnp.float32(MASKED))


def _scaled(
    x_RKgCS: Float[Array, "R K g C S"], scales_UKS: Float[Array, "U K S"] | None
) -> Float[Array, "R K g C S"]:
    """Every token's numbers times its scale, which the rows of a unit share."""
    if scales_UKS is None:
        return x_RKgCS
    rows, kv_heads, *_, places = x_RKgCS.shape
    units = len(scales_UKS)
    by_unit = x_RKgCS.reshape(units, rows // units, kv_heads, -1, places)
    return (by_unit * scales_UKS[:, None, :, None]).reshape(x_RKgCS.shape)


def _by_unit(x_RKgC: Array, cache_UKSH: Array, product: str) -> Array:
    """`product` of every row with its unit's cache, in float32."""
    rows, kv_heads, group, count, inner = x_RKgC.shape
    units = cache_UKSH.shape[0]
    x = x_RKgC.reshape(units, rows // units, kv_heads, group * count, inner)
    x = jnp.swapaxes(x, 1, 2).reshape(units, kv_heads, -1, inner)
    # Of a cache of int8, what the product reads is made a float on the way.
    cache = cache_UKSH.astype(x.dtype)
    out = jnp.einsum(product, x, cache, preferred_element_type=jnp.float32)
    out = out.reshape(units, kv_heads, rows // units, group * count, out.shape[-1])
    return jnp.swapaxes(out, 1, 2).reshape(rows, kv_heads, group, count, out.shape[-1])


def _mix(blocks: Sequence[tuple[Array, LayerCache]], dtype: jnp.dtype) -> Float[Array, "R K g C H"]:
    """One softmax over all blocks of scores, without laying them side by side.

    Weights are rounded to the model's type before they are normalised, as `attend` does it.
    """
    highest = functools.reduce(
        jnp.maximum, [jnp.max(scores, axis=-1, keepdims=True) for scores, _ in blocks]
    )
    out, total = jnp.float32(0), jnp.float32(0)
    for scores, cache in blocks:
        weights = jnp.exp(scores - highest)
        total += jnp.sum(weights, axis=-1, keepdims=True)
        weights = _scaled(weights, cache.value_scales).astype(dtype)
        out += _by_unit(weights, cache.values, "ukms,uksh->ukmh")
    return out / total
