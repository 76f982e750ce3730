"""Attention against loops in float64, and the wall between the segments of a row."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import softmax

from r1jax.ops import attention, blocked_attention, cudnn
from r1jax.ops.kv_cache import LayerCache, turned

attend = jax.jit(attention.attend, static_argnames=("window", "scale", "backend"))
attend_cache = jax.jit(attention.attend_cache, static_argnames=("window", "scale"))

HEAD_DIM = 8
SEGMENTS = np.array([[1] * 5 + [2] * 1 + [3] * 6, [1] * 9 + [0] * 3])


def make_qkv(seed=0, *, heads=4, kv_heads=2, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shape = SEGMENTS.shape
    sizes = (heads, kv_heads, kv_heads)
    return [rng.normal(size=(*shape, n, HEAD_DIM)).astype(dtype) for n in sizes]


def attend_by_loops(q, k, v, segment_ids, window=None):
    """One query at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for row, t, head in np.ndindex(q.shape[:3]):
        seen = [
            s
            for s in range(t + 1)
            if segment_ids[row, s] == segment_ids[row, t] and (window is None or t - s < window)
        ]
        weights = softmax(k[row, seen, head // group] @ q[row, t, head] / np.sqrt(HEAD_DIM))
        out[row, t, head] = weights @ v[row, seen, head // group]
    return out


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (8, 1)])
def test_equals_loops_in_float64(heads, kv_heads, window):
    q, k, v = make_qkv(heads=heads, kv_heads=kv_heads)
    out = attend(q, k, v, segment_ids_BT=SEGMENTS, window=window)
    np.testing.assert_allclose(out, attend_by_loops(q, k, v, SEGMENTS, window), atol=1e-6)


def test_scale_replaces_the_default():
    q, k, v = make_qkv()
    wanted = attend(2 * q, k, v, segment_ids_BT=SEGMENTS, scale=HEAD_DIM**-0.5)
    np.testing.assert_allclose(
        attend(q, k, v, segment_ids_BT=SEGMENTS, scale=2 * HEAD_DIM**-0.5), wanted, atol=1e-6
    )


@pytest.mark.parametrize("window", [None, 3])
def test_a_packed_segment_is_attended_as_if_alone(window):
    q, k, v = make_qkv()
    packed = attend(q, k, v, segment_ids_BT=SEGMENTS, window=window)
    for row, segment in ((0, 1), (0, 2), (0, 3), (1, 1)):
        places = SEGMENTS[row] == segment
        alone = attend(
            *(x[row : row + 1, places] for x in (q, k, v)),
            segment_ids_BT=np.ones((1, places.sum()), int),
            window=window,
        )
        np.testing.assert_allclose(packed[row, places], alone[0], atol=1e-6)


@pytest.mark.parametrize(("block", "window"), [(8, None), (16, 9), (128, 9)])
def test_blocks_equal_one_dense_softmax_with_its_gradients(block, window):
    """Random segments and prefixes over several blocks, against every pair at once."""
    rng = np.random.default_rng(1)
    length = 52
    segment_ids = np.zeros((2, length), int)
    prefix_ids = np.zeros((2, length), int)
    for row, starts in enumerate(([0, 9, 20, 21, 40], [0, 3, 30])):
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], 47], strict=True), 1):
            segment_ids[row, start:end] = number
            prefix_ids[row, start:end] = number if number < 3 else 2
    positions = rng.integers(0, 30, segment_ids.shape)
    names = ("segment_ids_BT", "prefix_ids_BT", "positions_BT")
    ids = dict(zip(names, map(jnp.asarray, (segment_ids, prefix_ids, positions)), strict=True))
    q, k, v, cotangent = (
        rng.normal(size=(2, length, heads, HEAD_DIM)).astype(np.float32) for heads in (4, 2, 2, 4)
    )

    def dense(q, k, v):
        mask = attention.packed_mask(window=window, **ids)
        keys, values = (jnp.repeat(x, 2, axis=2) for x in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q, keys) / jnp.float32(np.sqrt(HEAD_DIM))
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)
        return jnp.einsum("bnts,bsnh->btnh", weights, values)

    def blocked(q, k, v):
        return attention.attend(q, k, v, **ids, window=window, block=block)

    (out, pull), (wanted, wanted_pull) = (jax.vjp(f, q, k, v) for f in (jax.jit(blocked), dense))
    counted = np.where((segment_ids > 0)[..., None, None], cotangent, 0).astype(np.float32)
    np.testing.assert_allclose(
        np.where(segment_ids[..., None, None] > 0, out - wanted, 0), 0, atol=2e-6
    )
    for grad, wanted_grad in zip(pull(counted), wanted_pull(counted), strict=True):
        np.testing.assert_allclose(grad, wanted_grad, atol=5e-6)


def one_row(seed):
    """A row of prompts and responses of any lengths, some of one place, behind them padding or
    none: (segment_ids, prefix_ids, positions)."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 90))
    longest = int(rng.choice([2, 12, 60]))
    segment_ids = np.zeros((1, length), np.int32)
    prefix_ids, positions = segment_ids.copy(), segment_ids.copy()
    place, number, prompt = 0, 1, (0, 0)
    while place < length * rng.choice([0.5, 1.0]):
        end = min(length, place + int(rng.integers(1, longest + 1)))
        if not prompt[0] or rng.random() < 0.3:
            prompt = (number, end - place)
        segment_ids[0, place:end], prefix_ids[0, place:end] = number, prompt[0]
        first = 0 if prompt[0] == number else prompt[1]
        positions[0, place:end] = first + np.arange(end - place)
        place, number = end, number + 1
    return segment_ids, prefix_ids, positions


@pytest.mark.parametrize("seed", range(12))
def test_a_row_of_shared_prompts_equals_one_dense_softmax(monkeypatch, seed):
    """Values and gradients, by the mask of every place with every other."""
    monkeypatch.setattr(attention, "CPU_SHARED_BLOCK", 8)
    arrays = one_row(seed)
    names = ("segment_ids_BT", "prefix_ids_BT", "positions_BT")
    ids = dict(zip(names, map(jnp.asarray, arrays), strict=True))
    window = (None, 5)[seed % 2]
    rng = np.random.default_rng(seed)
    q, k, v, cotangent = (
        rng.normal(size=(1, arrays[0].shape[1], heads, HEAD_DIM)).astype(np.float32)
        for heads in (4, 2, 2, 4)
    )
    counted = arrays[0][..., None, None] > 0

    def dense(q, k, v):
        mask = attention.packed_mask(window=window, **ids)
        keys, values = (jnp.repeat(x, 2, axis=2) for x in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q, keys) / jnp.float32(np.sqrt(HEAD_DIM))
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
        return jnp.einsum("bnts,bsnh->btnh", weights, values)

    def blocked(q, k, v):
        return attention.attend(q, k, v, **ids, window=window)

    (out, pull), (wanted, wanted_pull) = (jax.vjp(f, q, k, v) for f in (jax.jit(blocked), dense))
    np.testing.assert_allclose(np.where(counted, out - wanted, 0), 0, atol=2e-6)
    cotangent = np.where(counted, cotangent, np.float32(0))
    for grad, wanted_grad in zip(pull(cotangent), wanted_pull(cotangent), strict=True):
        np.testing.assert_allclose(grad, wanted_grad, atol=5e-6)


def test_the_end_of_the_last_response_sees_no_more_than_it():
    """64 places of prompt, eight responses of 127, a block's rest of padding, which is in no range:
    each block sees itself, the prompt, and those before it that hold some of its responses."""
    lengths = [64, *[127] * 8, 8]
    ids = np.repeat([*range(1, 10), 0], lengths)
    blocks = ids.reshape(17, 64)
    alike = [[bool(set(a) & set(b) - {0}) for b in blocks[: i + 1]] for i, a in enumerate(blocks)]
    wanted = sum(sum(row) + (not row[0]) for row in alike)
    prefix_ids = jnp.asarray(np.minimum(ids, 1))[None]
    places = attention.make_places(jnp.asarray(ids)[None], prefix_ids, None)
    assert blocked_attention.find_pairs(places, 64).count == wanted < 68


def test_blocks_that_see_nothing_of_each_other_are_not_visited():
    """16 segments of one block each: 16 pairs, not the 136 below the diagonal."""
    segment_ids = jnp.repeat(jnp.arange(1, 17), 8)[None]
    places = attention.make_places(segment_ids, None, None)
    assert blocked_attention.find_pairs(places, 8).count == 16
    shared = attention.make_places(segment_ids, jnp.ones_like(segment_ids), None)
    assert blocked_attention.find_pairs(shared, 8).count == 31


@pytest.mark.parametrize(
    ("device", "shared", "block"), [("cpu", True, 64), ("cpu", False, 128), ("gpu", True, 128)]
)
def test_blocks_are_smaller_where_prompts_are_shared_on_a_cpu(monkeypatch, device, shared, block):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    visited = []
    monkeypatch.setattr(
        attention,
        "attend_blocks",
        lambda *args, block, **options: visited.append(block) or args[2].repeat(2, 1),
    )
    ids = jnp.ones((1, 256), jnp.int32)
    q, k = jnp.ones((1, 256, 2, 8)), jnp.ones((1, 256, 1, 8))
    attention.attend(q, k, k, segment_ids_BT=ids, prefix_ids_BT=ids if shared else None)
    assert visited == [block]


def test_a_block_of_padding_is_visited_once():
    """Three blocks of one segment, half a block of another, 12 blocks of padding: beside the 6
    pairs of the first and the one of the second, one for each block of padding, so that no query
    is left with nothing to see."""
    ids = np.zeros(128, np.int32)
    ids[:24], ids[24:28] = 1, 2
    places = attention.make_places(jnp.asarray(ids)[None], None, None)
    assert blocked_attention.find_pairs(places, 8).count == 6 + 1 + 12
    beside = attention.make_places(jnp.stack([jnp.asarray(ids), jnp.ones(128, int)]), None, None)
    assert blocked_attention.find_pairs(beside, 8).count == 16 * 17 // 2

    q = jnp.ones((1, 128, 2, 8))
    out, pull = jax.vjp(
        lambda q: attention.attend(q, q, q, segment_ids_BT=jnp.asarray(ids)[None], block=8), q
    )
    assert np.isfinite(out).all()
    assert np.isfinite(pull(out)[0]).all()


@pytest.mark.parametrize(
    ("backend", "changed"), [("xla", 1), ("xla", 2), ("xla", 3), ("splash_interpret", 2)]
)
def test_a_segment_has_no_influence_on_the_others(backend, changed):
    """Not a bit of the values or gradients of the others moves, whatever the segment holds."""
    qkv = make_qkv()
    places = np.flatnonzero(SEGMENTS[0] == changed)
    others = np.flatnonzero(SEGMENTS[0] != changed)
    other_qkv = [x.copy() for x in qkv]
    for x in other_qkv:
        x[0, places] = 1e3

    def outputs_of_others(q, k, v):
        out = attend(q, k, v, segment_ids_BT=SEGMENTS, backend=backend)
        return jnp.sum(jnp.sin(out[0, others])), out[0, others]

    gradient = jax.grad(outputs_of_others, argnums=(0, 1, 2), has_aux=True)
    grads, out = gradient(*qkv)
    other_grads, other_out = gradient(*other_qkv)
    np.testing.assert_array_equal(out, other_out)
    for grad, other_grad in zip(grads, other_grads, strict=True):
        np.testing.assert_array_equal(grad[0, others], other_grad[0, others])
        np.testing.assert_array_equal(grad[0, places], 0)


def test_padding_is_finite_and_so_are_its_gradients():
    q, k, v = make_qkv()
    padding = np.zeros_like(SEGMENTS)

    def total(q, k, v):
        return jnp.sum(attend(q, k, v, segment_ids_BT=padding))

    grads = jax.grad(total, argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(x).all() for x in (total(q, k, v), *grads))


def test_bfloat16_inputs_give_bfloat16_near_the_reference():
    q, k, v = make_qkv(dtype=jnp.bfloat16)
    out = attend(q, k, v, segment_ids_BT=SEGMENTS)
    assert out.dtype == jnp.bfloat16
    wanted = attend_by_loops(q, k, v, SEGMENTS)
    np.testing.assert_allclose(out.astype(np.float32), wanted, atol=0.03)


def split_cache(k, v, prefix_lengths, room):
    """([B, K, room, H] prefix, suffix): what lies past either's length is never to be read."""
    rows, _, heads, head_dim = k.shape
    parts = np.full((4, rows, heads, room, head_dim), 1e4, np.float32)
    for row, length in enumerate(prefix_lengths):
        for prefix, suffix, x in ((parts[0], parts[2], k), (parts[1], parts[3], v)):
            rest = x[row, length:].swapaxes(0, 1)
            prefix[row, :, :length] = x[row, :length].swapaxes(0, 1)
            suffix[row, :, : rest.shape[1]] = rest
    return LayerCache(*parts[:2]), LayerCache(*parts[2:])


@pytest.mark.parametrize("keep", [lambda cache: cache, turned], ids=["by place", "turned"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (8, 1)])
def test_a_prefix_and_a_suffix_give_the_last_rows_of_attend(heads, kv_heads, count, window, keep):
    """Rows have prefixes and suffixes of different lengths."""
    q, k, v = make_qkv(heads=heads, kv_heads=kv_heads)
    length, prefix_lengths = q.shape[1], np.array([4, 7])
    whole = attend(q, k, v, segment_ids_BT=np.ones_like(SEGMENTS), window=window)
    prefix, suffix = split_cache(k, v, prefix_lengths, room=length)
    cached = attend_cache(
        q[:, length - count :],
        keep(prefix),
        keep(suffix),
        prefix_lengths_R=prefix_lengths,
        filled_R=length - count - prefix_lengths,
        window=window,
    )
    np.testing.assert_allclose(cached, np.asarray(whole)[:, length - count :], atol=1e-6)


def test_rows_that_share_a_prefix_see_what_a_copy_each_would_show():
    q, k, v = make_qkv()
    prefix, suffix = split_cache(k, v, [5, 5], room=q.shape[1])
    one = jax.tree.map(lambda leaf: leaf[:1], prefix)
    both = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 2, axis=0), prefix)
    arguments = {"prefix_lengths_R": np.array([5, 3]), "filled_R": np.array([2, 4])}
    shared, copied = (attend_cache(q[:, :2], p, suffix, **arguments) for p in (one, both))
    np.testing.assert_allclose(shared, copied, atol=1e-6)


def test_without_a_prefix_the_suffix_is_all():
    q, k, v = make_qkv()
    _, suffix = split_cache(k, v, [0, 0], room=k.shape[1])
    nothing = np.zeros(2, int)
    cached = attend_cache(q, None, suffix, prefix_lengths_R=nothing, filled_R=nothing)
    whole = attend(q, k, v, segment_ids_BT=np.ones_like(SEGMENTS))
    np.testing.assert_allclose(cached, whole, atol=1e-6)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend 'flash' is unknown"):
        attend(*make_qkv(), segment_ids_BT=SEGMENTS, backend="flash")


@pytest.mark.parametrize("window", [None, 3])
def test_splash_equals_xla_with_its_gradients(window):
    qkv = make_qkv()
    counted = (SEGMENTS > 0)[..., None, None]

    def total(backend, *qkv):
        out = attend(*qkv, segment_ids_BT=SEGMENTS, window=window, backend=backend)
        out = jnp.where(counted, out, 0)
        return jnp.sum(jnp.sin(out)), out

    gradient = jax.grad(total, argnums=(1, 2, 3), has_aux=True)
    found, wanted = gradient("splash_interpret", *qkv), gradient("xla", *qkv)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-5), found, wanted)


class FakeGpu:
    platform, device_kind = "gpu", "some GPU"

    def __init__(self, capability):
        self.compute_capability = capability


def test_what_a_device_lacks_is_said():
    cpu = jax.devices()[0]
    assert "needs a TPU" in attention.missing("splash", cpu)
    assert "needs an NVIDIA GPU" in attention.missing("cudnn", cpu)
    assert "needs an NVIDIA GPU" in attention.missing("cudnn", FakeGpu("gfx942"))
    assert "not compute capability 8.6" in attention.missing("cudnn", FakeGpu("8.6"))
    assert attention.missing("cudnn", FakeGpu("9.0")) is None
    assert attention.missing("cudnn", FakeGpu("10.0")) is None
    assert attention.missing("xla", cpu) is None


def test_cudnn_refuses_what_it_cannot_do(monkeypatch):
    q, k, v, segment_ids = map(jnp.asarray, (*make_qkv(), SEGMENTS))

    def attend_cudnn(q, k, v):
        return attention.attend(q, k, v, segment_ids_BT=segment_ids, backend="cudnn")

    with pytest.raises(ValueError, match="'cudnn': needs an NVIDIA GPU"):
        attend_cudnn(q, k, v)
    monkeypatch.setattr(cudnn, "missing", lambda _: None)
    with pytest.raises(ValueError, match=r"'cudnn': float32: set model\.dtype to 'bfloat16'"):
        attend_cudnn(q, k, v)
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    with pytest.raises(ValueError, match="values of 4 beside keys of 8"):
        attend_cudnn(q, k, v[..., :4])
    with pytest.raises(ValueError, match="heads of 7: up to 256, in steps of 8"):
        attend_cudnn(*(x[..., :7] for x in (q, k, v)))


@pytest.mark.parametrize("window", [None, 3])
def test_the_mask_that_cudnn_gets_is_all_that_attention_needs(monkeypatch, window):
    """Segments, a shared prompt, windows over positions: its call, as XLA computes it."""
    prefix_ids = jnp.asarray(np.where(SEGMENTS == 3, 1, SEGMENTS))
    positions = jnp.asarray(np.random.default_rng(1).permuted(np.arange(12)[None], axis=1))
    positions = jnp.broadcast_to(jnp.sort(positions // 2), SEGMENTS.shape)
    options = {"segment_ids_BT": jnp.asarray(SEGMENTS), "prefix_ids_BT": prefix_ids}
    options |= {"positions_BT": positions, "window": window}
    by_xla = functools.partial(cudnn.attend_cudnn, implementation="xla")
    monkeypatch.setattr(cudnn, "missing", lambda _: None)
    monkeypatch.setattr(cudnn, "refusal", lambda *_: None)
    monkeypatch.setattr(cudnn, "attend_cudnn", by_xla)
    qkv = tuple(map(jnp.asarray, make_qkv()))
    counted = (SEGMENTS > 0)[..., None, None]

    def total(qkv, backend):
        out = attention.attend(*qkv, backend=backend, **options)
        return jnp.sum(jnp.sin(jnp.where(counted, out, 0)))

    found, wanted = (jax.value_and_grad(total)(qkv, name) for name in ("cudnn", "xla"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), found, wanted)


def test_cudnn_lowers_for_a_gpu_and_makes_no_scores(monkeypatch):
    """Forward and backward, without a GPU: only what JAX asks the machine is answered for it."""
    kernels = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(kernels, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(kernels, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(kernels, "is_cuda_compute_capability_equal", lambda _: False)
    monkeypatch.setattr(cudnn, "missing", lambda _: None)
    rows, length, heads, kv_heads, width = 2, 252, 4, 2, 64

    def total(q, k, v, ids):
        out = attention.attend(q, k, v, segment_ids_BT=ids, prefix_ids_BT=ids, backend="cudnn")
        return jnp.sum(out.astype(jnp.float32))

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    qkv = [array(rows, length, n, width) for n in (heads, kv_heads, kv_heads)]
    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(
        *qkv, array(rows, length, dtype=jnp.int32)
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    called = set(re.findall(r"__cudnn\$\w+", text))
    assert called == {
        "__cudnn$fmhaScaleBiasSoftmax",
        "__cudnn$fmhaScaleBiasSoftmaxBackward",
    }
    assert f"{rows}x{heads}x256x256" not in text


@pytest.mark.parametrize("window", [3, pytest.param(attention.ENDLESS, marks=pytest.mark.slow)])
def test_splash_takes_the_window_of_a_layer_in_a_scan(window):
    """The window is an argument of the compiled program; gradients go through the choice."""
    qkv = tuple(map(jnp.asarray, make_qkv()))

    def total(qkv, window, backend):
        options = {
            "segment_ids_BT": jnp.asarray(SEGMENTS),
            "windows": (3, None, 3, 5),
            "backend": backend,
        }
        out = attention.attend(*qkv, window=window, **options)
        return jnp.sum(jnp.sin(jnp.where((SEGMENTS > 0)[..., None, None], out, 0)))

    gradient = jax.jit(jax.value_and_grad(total), static_argnums=2)
    found, wanted = (gradient(qkv, jnp.int32(window), b) for b in ("splash_interpret", "xla"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-5), found, wanted)


def test_splash_refuses_what_it_cannot_do():
    q, k, v, segment_ids = map(jnp.asarray, (*make_qkv(), SEGMENTS))
    asked = [
        ({"prefix_ids_BT": segment_ids}, "shared prompts"),
        ({"window": jnp.int32(3)}, "a window of any size"),
    ]
    for options, what in asked:
        with pytest.raises(ValueError, match=f"'splash' cannot do {what}"):
            attention.attend(q, k, v, segment_ids_BT=segment_ids, backend="splash", **options)
    with pytest.raises(ValueError, match="values of 4 beside keys of 8"):
        attention.attend(q, k, v[..., :4], segment_ids_BT=segment_ids, backend="splash")
