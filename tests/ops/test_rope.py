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
