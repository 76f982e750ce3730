"""Even use of experts and multi-token prediction, as parts of an update."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import make_tiny, quick_compiles, random_batch

from r1jax import config as config_lib
from r1jax.config import AuxiliaryConfig, OptimConfig
from r1jax.errors import UserError
from r1jax.models import moe, mtp
from r1jax.models.config import MoeConfig
from r1jax.objectives.policy import PolicyObjective
from r1jax.ops import packing
from r1jax.training import step
from r1jax.training.auxiliary import require_parts
from r1jax.training.optimizer import decays, make_optimizer

OBJECTIVE = PolicyObjective()
EXPERTS = MoeConfig(4, chosen=2, ffn=8, score="sigmoid", selection_bias=True, normalized=True)
CHANGES = {"layers": 1, "moe": EXPERTS, "mtp": True, "tied_head": False}
# Several micro-batches, and all rows in one.
every_cut = pytest.mark.parametrize("rows_per_micro", [1, pytest.param(8, marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def _quick_compiles():
    with quick_compiles():
        yield


def make_batch(seed=3):
    rng = np.random.default_rng(seed)
    return random_batch(rng, 9, longest=8, row_length=16, rows=8)


@functools.cache
def tiny():
    return make_tiny(**CHANGES)


def loss_of(kind, auxiliary):
    module, _ = tiny()
    if kind == "supervised":
        return step.make_supervised_loss(module, auxiliary), step.supervised_weights
    loss = step.make_policy_loss(
        module, OBJECTIVE, temperature=1.0, on_policy=True, auxiliary=auxiliary
    )
    return loss, step.make_policy_weights(OBJECTIVE)


@functools.cache
def update(kind, rows_per_micro, *, rebalance=0.0, **coefficients):
    """(how far gradient descent at rate 1 moved every parameter, the statistics)"""
    optimizer = optax.sgd(1.0)
    _, params = tiny()
    run = step.make_update(
        *loss_of(kind, AuxiliaryConfig(**coefficients)), optimizer, rebalance=rebalance
    )
    batch, used = packing.split_micro(make_batch(), rows_per_micro)
    state, stats = run(
        step.init_state(jax.tree.map(jnp.copy, params), optimizer), batch, np.int32(used)
    )
    return jax.tree.map(jnp.subtract, params, state.params), jax.device_get(stats)


def assert_close(left, right, atol=2e-6):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-4), left, right)


def read(params, micro):
    """(hidden states, routing) of one micro-batch."""
    module, _ = tiny()
    inputs = (micro.tokens, micro.positions, micro.segment_ids)
    return module.apply({"params": params}, *inputs, method="hidden_and_routing")


def micro_batches(rows_per_micro):
    split, used = packing.split_micro(make_batch(), rows_per_micro)

    def take(number):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[number]), split)

    return [take(number) for number in range(used)]


@every_cut
@pytest.mark.slow
def test_the_balance_loss_of_each_micro_batch_counts_by_its_tokens(rows_per_micro):
    _, params = tiny()
    micros = micro_batches(rows_per_micro)
    sizes = [float(np.sum(np.asarray(micro.segment_ids) > 0)) for micro in micros]
    assert (len(micros) > 2) == (rows_per_micro == 1)

    def balance(params):
        parts = [moe.balance_loss(EXPERTS, read(params, micro)[1]) for micro in micros]
        return sum(part * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes)

    value, wanted = jax.jit(jax.value_and_grad(balance))(params)
    plain, plain_stats = update("policy", rows_per_micro)
    moved, stats = update("policy", rows_per_micro, balance_loss=0.5)
    np.testing.assert_allclose(stats["balance_loss"], value, rtol=1e-5)
    np.testing.assert_allclose(stats["loss"], plain_stats["loss"] + 0.5 * value, rtol=1e-5)
    assert_close(moved, jax.tree.map(lambda a, b: a + 0.5 * b, plain, wanted))
    assert jnp.any(wanted["layers"]["block"]["moe"]["router"])


@every_cut
@pytest.mark.parametrize("kind", ["policy", pytest.param("supervised", marks=pytest.mark.slow)])
def test_the_loss_of_multi_token_prediction_is_the_batch_mean(kind, rows_per_micro):
    module, params = tiny()
    batch = jax.tree.map(jnp.asarray, make_batch())
    places = {
        name: getattr(batch, name) for name in ("targets", "positions", "segment_ids", "mask")
    }

    def further(params):
        nll, count, _ = mtp.mtp_loss(module, params, read(params, batch)[0], **places)
        return nll / count

    value, wanted = jax.jit(jax.value_and_grad(further))(params)
    assert jnp.any(wanted["layers"]["block"]["moe"]["expert_up"])
    if kind == "policy":  # which is not taught to imitate itself
        rest = {name: leaf for name, leaf in wanted.items() if name != "mtp"}
        wanted = {**jax.tree.map(jnp.zeros_like, rest), "mtp": wanted["mtp"]}
    plain, _ = update(kind, rows_per_micro)
    moved, stats = update(kind, rows_per_micro, mtp_loss=0.3)
    np.testing.assert_allclose(stats["mtp_loss"], value, rtol=1e-5)
    assert_close(moved, jax.tree.map(lambda a, b: a + 0.3 * b, plain, wanted))


@every_cut
@pytest.mark.parametrize("with_mtp", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_selection_bias_moves_against_the_load_of_the_batch(with_mtp, rows_per_micro):
    _, params = tiny()
    _, routing = jax.jit(read)(params, jax.tree.map(jnp.asarray, make_batch()))
    load = routing["layers"].load
    wanted = 0.01 * np.sign(load - load.mean(axis=-1, keepdims=True))
    coefficients = {"mtp_loss": 0.3} if with_mtp else {}
    plain, _ = update("policy", rows_per_micro, **coefficients)
    more, _ = update("policy", rows_per_micro, rebalance=0.02, **coefficients)
    moved, stats = update("policy", rows_per_micro, rebalance=0.01, **coefficients)
    moved, more, plain = (jax.tree.map(np.asarray, tree) for tree in (moved, more, plain))
    np.testing.assert_allclose(
        moved["layers"]["block"]["moe"].pop("router_bias"), wanted, atol=1e-7
    )
    assert np.any(moved["mtp"]["block"]["moe"].pop("router_bias")) == with_mtp
    for part in ("layers", "mtp"):
        plain[part]["block"]["moe"].pop("router_bias")
        more[part]["block"]["moe"].pop("router_bias")
    # Nothing else does. Without a bias to move the compiled program is another one, and its sums
    # are rounded otherwise: no more than when the batch is cut otherwise.
    jax.tree.map(np.testing.assert_array_equal, moved, more)
    cuts = [update("policy", rows, **coefficients)[0] for rows in (1, 8)]
    rounding = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *cuts)))
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=rounding)
    jax.tree.map(close, moved, plain)
    assert 0 < rounding < 1e-6
    if not with_mtp:
        busiest = np.max(load.max(axis=-1) / load.mean(axis=-1))
        np.testing.assert_allclose(stats["expert_load_max"], busiest, rtol=1e-6)


def test_norms_and_biases_do_not_decay():
    optimizer = make_optimizer(OptimConfig(lr=0.1, weight_decay=0.5), 10)
    params = {**tiny()[1], "score_bias": jnp.ones(1)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    moved, _ = jax.jit(lambda: optimizer.update(zeros, optimizer.init(params), params))()
    kept = {
        path[-1].key
        for path, leaf in jax.tree_util.tree_leaves_with_path(moved)
        if not np.any(np.asarray(leaf))
    }
    assert kept == {
        *("attention_norm", "mlp_norm", "final_norm", "token_norm", "hidden_norm", "output_norm"),
        *("router_bias", "score_bias"),
    }
    assert decays({"query_lora_a": 0}) == {"query_lora_a": True}


@pytest.mark.parametrize(
    ("name", "changes", "lacks"),
    [
        ("balance_loss", {}, "no mixture of experts"),
        ("rebalance", {"moe": dataclasses.replace(EXPERTS, selection_bias=False)}, "with a bias"),
        ("mtp_loss", {"moe": EXPERTS}, "no module for multi-token prediction"),
    ],
)
def test_a_setting_for_a_part_the_model_lacks_is_refused(name, changes, lacks):
    module, _ = make_tiny(**changes)
    with pytest.raises(UserError, match=rf"config\.auxiliary\.{name}=0\.1: .*{lacks}"):
        require_parts(AuxiliaryConfig(**{name: 0.1}), module.config)
    require_parts(AuxiliaryConfig(), module.config)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"auxiliary": {"rebalance": -0.1}}, "must be 0 or more"),
        ({"auxiliary": {"rebalance": 0.1}, "lora": {"rank": 2}}, "adapters"),
        ({"auxiliary": {"mtp_loss": 0.1}, "batch": {"share_prompts": True}}, "share_prompts"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(tree, says):
    with pytest.raises(UserError, match=says):
        config_lib.from_config_dict(tree)
