"""Learning rates at steps worked out by hand, and one step of AdamW."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import compile_fully

from r1jax.config import OptimConfig
from r1jax.training import step
from r1jax.training.optimizer import clip_by_norm, make_optimizer, make_schedule

SHAPES = {"w": (3, 4), "b": (5,)}


def rates(config, steps):
    schedule = make_schedule(config, steps)
    with jax.numpy_dtype_promotion("standard"):
        return [float(schedule(jnp.int32(step))) for step in range(steps)]


def test_constant_is_constant():
    assert rates(OptimConfig(lr=0.5), 3) == [0.5, 0.5, 0.5]


def test_warm_up_moves_from_the_first_step_and_ends_at_the_rate():
    assert rates(OptimConfig(lr=0.4, warmup_steps=4), 6) == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    )
    assert rates(OptimConfig(lr=0.4, warmup_steps=1), 2) == pytest.approx([0.4, 0.4])


def test_cosine_ends_at_its_fraction_with_the_last_step():
    half = 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4))
    config = OptimConfig(lr=1.0, schedule="cosine", final_fraction=0.2)
    assert rates(config, 5) == pytest.approx([1.0, half, 0.6, 1.2 - half, 0.2])


def test_cosine_starts_where_the_warm_up_ends():
    config = OptimConfig(lr=1.0, schedule="cosine", final_fraction=0.0, warmup_steps=2)
    assert rates(config, 5) == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("warmup_steps", [0, 3, 9])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_runs_shorter_than_their_schedule_are_possible(steps, warmup_steps):
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=warmup_steps)
    assert all(0 < rate <= 1 for rate in rates(config, max(steps, 1)))


@pytest.mark.parametrize("size", [0.0, 1e-30, 0.2, 1.0, 7.0, 1e15, np.inf, np.nan])
@pytest.mark.parametrize("limit", [1.0, 0.3])
def test_the_clip_is_optaxs(size, limit):
    rng = np.random.default_rng(0)
    grads = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    grads = jax.tree.map(lambda leaf: leaf * np.float32(size) / optax.tree.norm(grads), grads)
    ours, theirs = clip_by_norm(limit), optax.clip_by_global_norm(limit)
    found, wanted = (by.update(grads, by.init(grads))[0] for by in (ours, theirs))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)


def test_nothing_as_large_as_the_gradients_is_made_of_them():
    """The old state's arrays take the new one, and there is no other of that size."""
    params = {"w": jax.ShapeDtypeStruct((512, 512), np.float32)}
    optimizer = make_optimizer(OptimConfig(), 10)
    state = jax.eval_shape(functools.partial(step.init_state, optimizer=optimizer), params)
    told = step.Told({"loss": np.float32(0), "tokens": np.float32(1)}, {})
    apply = functools.partial(step.apply_gradients, optimizer=optimizer, rebalance=0.0)
    lowered = jax.jit(apply, donate_argnums=0).lower(state, (params, told))
    memory = compile_fully(lowered).memory_analysis()
    assert memory.alias_size_in_bytes >= 3 * 4 * 512**2
    assert memory.temp_size_in_bytes < 4 * 512**2 / 8


def test_one_step_of_adamw_with_a_clipped_gradient():
    """Norm 5 clipped to 1; the first step's moments are the gradient and its square."""
    config = OptimConfig(lr=0.1, clip_norm=1.0, weight_decay=0.2, eps=0.5)
    optimizer = make_optimizer(config, 10)
    params = {"w": jnp.array([1.0, -2.0])}
    grads = {"w": jnp.array([3.0, -4.0])}
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    clipped = np.array([0.6, -0.8])
    wanted = -0.1 * (clipped / (np.abs(clipped) + 0.5) + 0.2 * np.array([1.0, -2.0]))
    np.testing.assert_allclose(updates["w"], wanted, rtol=1e-5)


def test_a_small_gradient_is_not_scaled_up():
    optimizer = make_optimizer(OptimConfig(lr=1.0, clip_norm=1.0, eps=1.0), 1)
    params = {"w": jnp.zeros(2)}
    updates, _ = optimizer.update({"w": jnp.array([0.3, 0.4])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.3 / 1.3, -0.4 / 1.4], rtol=1e-5)


def test_the_schedule_counts_updates():
    config = OptimConfig(lr=1.0, warmup_steps=2, eps=1e-30, clip_norm=100.0)
    optimizer = make_optimizer(config, 4)
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    moved = []
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
        moved.append(float(updates["w"][0]))
        params = optax.apply_updates(params, updates)
    assert moved == pytest.approx([-0.5, -1.0, -1.0], rel=1e-4)
