"""Rotary embedding: complex multiplication, and what attention may see of positions."""

import jax
import numpy as np

from r1jax.ops import rope

HEAD_DIM, THETA = 8, 10_000.0
rotate = jax.jit(lambda x, p: rope.rotate(x, p, rope.frequencies(HEAD_DIM, THETA)))


def make_heads(seed):
    return np.random.default_rng(seed).normal(size=(1, 6, 2, HEAD_DIM)).astype(np.float32)


def test_each_plane_turns_as_a_complex_number():
    """Plane i is (x[i], x[i + H/2]), turned by position / theta^(2i/H)."""
    x, positions = make_heads(0), np.array([[0, 1, 2, 7, 100, 5000]])
    plane = x[..., : HEAD_DIM // 2] + 1j * x[..., HEAD_DIM // 2 :]
    angles = positions[0][:, None] / THETA ** (2 * np.arange(HEAD_DIM // 2) / HEAD_DIM)
    turned = plane * np.exp(1j * angles)[None, :, None]
    wanted = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(x, positions), wanted, atol=1e-3)
    np.testing.assert_allclose(rotate(x, positions)[:, :4], wanted[:, :4], atol=2e-6)


def test_scores_depend_on_distances_only():
    q, k = make_heads(1), make_heads(2)
    near = np.arange(6)[None]

    def scores(positions):
        return np.einsum("btnh,bsnh->bnts", rotate(q, positions), rotate(k, positions))

    np.testing.assert_allclose(scores(near), scores(near + 100), atol=1e-4)


def test_llama3_scaling_keeps_what_turns_often_and_divides_what_turns_seldom():
    """Llama 3.1 8B: theta 500000, factor 8 from 8192 positions; a smooth change between."""
    scaling = rope.RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)
    plain, scaled = rope.frequencies(128, 5e5), rope.frequencies(128, 5e5, scaling)
    turns = 8192 * plain / (2 * np.pi)
    ratio = scaled / plain
    np.testing.assert_array_equal(ratio[turns > 4], 1)
    np.testing.assert_allclose(ratio[turns < 1], 1 / 8, rtol=1e-6)
    between = ratio[(turns >= 1) & (turns <= 4)]
    assert len(between) > 3
    assert (np.diff(between) < 0).all()
    # transformers writes the ramp in wavelengths.
    smooth = (8192 / (2 * np.pi / plain) - 1.0) / (4.0 - 1.0)
    wanted = ((1 - smooth) / 8 + smooth)[(turns >= 1) & (turns <= 4)]
    np.testing.assert_allclose(between, wanted, rtol=1e-5)


def test_yarn_scaling_of_qwen():
    """Qwen2.5's 4 x 32768: the ramp runs over planes 23 to 40 of 64 (32 turns to 1)."""
    scaling = rope.RopeScaling("yarn", 4.0, 32768)
    ratio = rope.frequencies(128, 1e6, scaling) / rope.frequencies(128, 1e6)
    np.testing.assert_array_equal(ratio[:24], 1)
    np.testing.assert_allclose(ratio[40:], 1 / 4, rtol=1e-6)
    np.testing.assert_allclose(np.diff(ratio[23:41]), -3 / 4 / 17, rtol=1e-4)


def test_linear_scaling_divides_all():
    scaled = rope.frequencies(HEAD_DIM, THETA, rope.RopeScaling("linear", 2.0))
    np.testing.assert_array_equal(scaled, rope.frequencies(HEAD_DIM, THETA) / 2)
