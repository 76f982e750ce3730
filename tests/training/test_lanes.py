"""Lanes of an update: however many there are, the same gradients, log-probs and values."""

import dataclasses
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import counted_compiles, make_tiny, random_sequences

from r1jax import mesh as mesh_lib
from r1jax.config import BatchConfig, from_config_dict
from r1jax.errors import UserError
from r1jax.objectives.policy import PolicyObjective
from r1jax.ops import packing
from r1jax.training import critic, learning, step
from r1jax.training.batches import make_batch_shape
from r1jax.training.lanes import by_lane, choose_lanes
from r1jax.training.setup import fresh_params, make_setup
from r1jax.types import PackedBatch

OBJECTIVE = PolicyObjective(kl="k3", kl_coef=0.1, entropy_coef=0.01)
GRADIENT_ITSELF = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _state, _params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)
LANES = [2, *(pytest.param(lanes, marks=pytest.mark.slow) for lanes in (3, 16))]
ONE_DEVICE = {"mesh": {"data": 1}}


@functools.cache
def make_batch() -> tuple[PackedBatch, int]:
    """Five micro-batches of seven are used."""
    rng = np.random.default_rng(0)
    sequences = random_sequences(rng, 11, longest=8, vocabulary=12)
    packed = packing.pack(sequences, row_length=16, rows=5)
    noise = rng.normal(0, 0.3, packed.mask.shape).astype(np.float32)
    packed = dataclasses.replace(packed, logp_ref=packed.logp_behavior + noise)
    batch, used = packing.split_micro(packed, 1)
    assert used == 5
    empty = jax.tree.map(lambda leaf: np.zeros((2, *leaf.shape[1:]), leaf.dtype), batch)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), batch, empty), used


@functools.cache
def make_update(lanes):
    loss = step.make_policy_loss(make_tiny()[0], OBJECTIVE, temperature=0.8, on_policy=False)
    weigh = step.make_policy_weights(OBJECTIVE)
    return step.make_update(loss, weigh, GRADIENT_ITSELF, lanes=lanes)


def fresh_state():
    params = make_tiny()[1]
    return step.init_state(jax.tree.map(jnp.copy, params), GRADIENT_ITSELF)


def run(lanes, *, used=None, micro_batches=None):
    """(gradients, statistics)"""
    batch, filled = make_batch()
    batch = jax.tree.map(lambda leaf: leaf[:micro_batches], batch)
    used = filled if used is None else used
    state, stats = make_update(lanes)(fresh_state(), batch, np.int32(used))
    return jax.device_get((state.opt_state, stats))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    "some",
    [
        {},
        {"used": 1},
        {"used": 1, "micro_batches": 1},
        pytest.param({"used": 0}, marks=pytest.mark.slow),
        pytest.param({"used": 3, "micro_batches": 3}, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_lanes_gives_the_gradient_of_one(lanes, some):
    """To rounding: sums are added in another order."""
    (wanted_grads, wanted), (grads, stats) = run(1, **some), run(lanes, **some)
    difference = optax.tree.norm(optax.tree.sub(grads, wanted_grads))
    assert difference <= 1e-6 * optax.tree.norm(wanted_grads)
    assert (optax.tree.norm(wanted_grads) > 0) == (some.get("used") != 0)
    assert stats.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(stats[name], value, rtol=2e-6, atol=2e-7, err_msg=name)


def test_the_same_update_twice_is_the_same_to_the_bit():
    first, *others = [run(2) for _ in range(5)]
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)


def test_the_old_state_is_given_away_and_the_next_update_compiles_nothing():
    (batch, used), update, old = make_batch(), make_update(2), fresh_state()
    state, _ = update(old, batch, np.int32(used))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    with counted_compiles() as compiles:
        for used in (4, 1):
            state, _ = update(state, batch, np.int32(used))
    assert compiles.count == 0
    assert state.step == 3


def test_gradients_of_lanes_are_added_in_place(monkeypatch):
    found = []

    def told(*arguments):
        found.extend(by_lane(*arguments))
        return found

    monkeypatch.setattr(step, "by_lane", told)
    run(2)
    (first, _), (second, _) = found
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(second))


def shares(lanes, used, micro_batches=7):
    """What each lane was given, and by which thread; work that waits is not waited for."""
    batch = jax.tree.map(lambda leaf: leaf[:micro_batches], make_batch()[0])
    return by_lane(lanes, batch, used, lambda *share: (*map(int, share), threading.get_ident()))


@pytest.mark.parametrize("used", range(8))
@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 9])
def test_every_micro_batch_is_one_lanes(lanes, used):
    found = shares(lanes, np.int32(used))
    assert len(found) == min(lanes, 7)
    assert [at for first, end, _ in found for at in range(first, end)] == list(range(used))
    sizes = [end - first for first, end, _ in found]
    assert max(sizes) - min(sizes) <= 1
    assert len({thread for *_, thread in found}) == len(found)


def test_a_lane_sees_the_settings_of_its_caller():
    """So that all lanes run one program."""

    def settings(*_):
        names = ("jax_default_device", "jax_default_matmul_precision", "jax_enable_x64")
        return jax.sharding.get_mesh(), *(getattr(jax.config, name) for name in names)

    device = jax.devices()[1]
    mesh = jax.sharding.Mesh(np.array([device]), ("data",))
    for setting in (
        jax.default_device(device),
        jax.default_matmul_precision("highest"),
        jax.enable_x64(True),
        jax.set_mesh(mesh),
    ):
        with setting:
            here, there = by_lane(2, make_batch()[0], 2, settings)
        assert here == there
        assert here != settings()


def test_what_a_lane_raises_is_raised():
    def work(first, _end):
        if first:
            raise RuntimeError("in a lane")

    with pytest.raises(RuntimeError, match="in a lane"):
        by_lane(2, make_batch()[0], 5, work)


def micro_setup(lanes, **changes):
    model = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32}
    tree = {"model": model, "batch": {"lanes": lanes}, **ONE_DEVICE, **changes}
    return make_setup(from_config_dict(tree))


def test_log_probs_do_not_depend_on_lanes():
    batch, used = make_batch()
    found = []
    for lanes in (1, 2):
        with (setup := micro_setup(lanes)).grader:
            params = fresh_params(setup)
            found.append(learning.evaluate_batch(setup, params, batch, used, 0.8))
    jax.tree.map(np.testing.assert_array_equal, *found)
    logp, entropy = map(np.asarray, found[0])
    assert (logp[:used][batch.mask[:used]] < 0).all()
    assert entropy[:used].any(axis=(1, 2)).all()
    assert not logp[used:].any()


def test_a_critics_advice_does_not_depend_on_lanes():
    batch, used = make_batch()
    found = []
    for lanes in (1, 2):
        with (setup := micro_setup(lanes, rl={"advantage": "gae"})).grader:
            state = critic.fresh_critic(setup, fresh_params(setup))
            head = jax.random.normal(jax.random.key(0), (16,))
            state = dataclasses.replace(state, params={**state.params, "score": head})
            found.append(critic.Critic(setup, state).advise([batch], [used]))
    (wanted, stats), (advised, same) = found
    jax.tree.map(np.testing.assert_array_equal, (advised, stats), (wanted, same))
    assert np.asarray(advised[0].values)[:used][batch.mask[:used]].all()


def test_one_cpu_device_has_two_lanes_and_several_devices_one():
    one, two = mesh_lib.make_mesh(), mesh_lib.make_mesh(2)
    assert [choose_lanes(BatchConfig(), mesh) for mesh in (one, two)] == [2, 1]
    assert choose_lanes(BatchConfig(lanes=3), one) == 3
    with pytest.raises(UserError, match=r"config.batch.lanes=2: 2 devices share one; use 1"):
        micro_setup(2, mesh={"data": 2})
    with pytest.raises(UserError, match=r"batch.lanes=-1: must be 0 or more"):
        from_config_dict({"batch": {"lanes": -1}})


def test_lanes_share_the_tokens_that_a_device_works_on():
    def rows(lanes):
        config = BatchConfig(tokens_per_device=64, lanes=lanes)
        shape = make_batch_shape(config, mesh_lib.make_mesh(), sequences=16, longest=8)
        return shape.rows_per_micro

    assert [rows(lanes) for lanes in (1, 2, 4, 99)] == [8, 4, 2, 1]
