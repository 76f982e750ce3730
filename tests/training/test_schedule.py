"""What changes with the step: the stage's length and temperature, the reference, the optimizer."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.config import OptimConfig, from_config_dict
from r1jax.errors import UserError
from r1jax.monitor.clock import Clock
from r1jax.ops.sampling import SamplingParams
from r1jax.training import rl
from r1jax.training.optimizer import make_optimizer
from r1jax.training.sampling import Feed
from r1jax.training.session import Session
from r1jax.training.setup import Setup
from r1jax.training.step import init_state
from r1jax.training.step_log import StepLog
from r1jax.types import TrainState

KL = {"kl": "k3", "kl_coef": 0.01}


def test_each_stage_begins_at_its_step():
    stages = ((2, 8, 0.5), (5, 16, 1.0))
    config = from_config_dict({"rl": {"stages": stages}, "sampling": {"max_tokens": 16}})
    plain = SamplingParams(max_tokens=16, temperature=0.9, stop_ids=(3,))
    found = [config.rl.sampling_at(step, plain) for step in (0, 1, 2, 4, 5, 99)]
    assert [(s.max_tokens, s.temperature) for s in found] == [
        *[(16, 0.9)] * 2,
        *[(8, 0.5)] * 2,
        *[(16, 1.0)] * 2,
    ]
    assert all(s.stop_ids == (3,) for s in found)


def setup_of(**tree):
    setup = mock.Mock(spec=Setup)
    setup.config = from_config_dict({"objective": KL, **tree})
    return setup


def test_the_reference_is_the_policy_of_the_last_replacement():
    setup = setup_of(rl={"reference_every": 3})
    reference, at = {"w": jnp.float32(-1)}, []
    for step in range(8):
        state = TrainState({"w": jnp.float32(step)}, (), jnp.int32(step))
        run = rl.Run(step, state, reference, Feed(), {})
        rl.replace_reference(setup, run)
        reference = run.reference
        at.append(float(reference["w"]))
    assert at == [-1, -1, -1, 3, 3, 3, 6, 6]


def test_the_reference_is_not_written_over_with_the_policy():
    setup = setup_of(rl={"reference_every": 1})
    state = TrainState({"w": jnp.ones(4)}, (), jnp.int32(1))
    run = rl.Run(1, state, None, Feed(), {})
    rl.replace_reference(setup, run)
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    np.testing.assert_array_equal(run.reference["w"], np.ones(4))


def test_a_stall_starts_reference_and_optimizer_anew(monkeypatch):
    """ProRL's hard reset, after two evaluations in a row without a better one."""
    optimizer = make_optimizer(OptimConfig(lr=0.1), 8)

    def fresh_state(setup, optimizer, params):
        del setup
        return init_state(params, optimizer)

    monkeypatch.setattr(rl, "fresh_state", fresh_state)
    monkeypatch.setattr(rl, "make_ready", lambda _, policy: policy)
    session = mock.Mock(spec=Session)
    session.setup = setup_of(rl={"reset_on_stall": 2}, eval={"every": 1})
    session.setup.policy.side_effect = lambda _, params: params
    session.clock, session.sinks = Clock(), mock.Mock()
    state = init_state({"w": jnp.float32(0)}, optimizer)
    books = {"best_accuracy": -1.0, "stalled": 0}
    run = rl.Run(0, state, {"w": jnp.float32(-1)}, Feed(), books)
    moments = []
    for accuracy in (0.2, 0.3, 0.3, 0.1, 0.2, 0.4, 0.4, 0.4):
        grads = {"w": jnp.float32(1)}
        updates, opt_state = optimizer.update(grads, run.state.opt_state, run.state.params)
        params = optax.apply_updates(run.state.params, updates)
        run.state, run.ready = TrainState(params, opt_state, run.state.step + 1), None
        run.step += 1
        numbers = {"accuracy": accuracy}
        log = mock.Mock(spec=StepLog)
        rl.measure(session, log, run, optimizer, lambda _, n=numbers: n, {})
        moments.append(bool(optax.tree.get(run.state.opt_state, "mu")["w"] != 0))
    assert moments == [True, True, True, False] * 2
    assert int(run.state.step) == 8  # counts what the run did, not the optimizer
    assert run.reference["w"] == run.state.params["w"] != -1
    assert books == {"best_accuracy": 0.4, "stalled": 0}


@pytest.mark.parametrize(
    ("rl", "message"),
    [
        ({"reference_every": 2}, "there is no reference"),
        ({"reset_on_stall": 2}, "counts evaluations; set eval.every"),
        ({"epochs": 0}, "rl.epochs=0: must be 1 or more"),
        ({"stages": ((3, 8, 1.0), (3, 9, 1.0))}, "ascend"),
        ({"stages": ((0, 4096, 1.0),)}, "sampling.max_tokens="),
        ({"stages": ((0, 8, 0.0),)}, "temperatures must be above 0"),
        ({"dynamic": {"band": (0.5, 0.5)}}, "rl.dynamic.band"),
        ({"dynamic": {"budget": 0}}, "rl.dynamic.budget=0"),
        ({"dynamic": {"carry": True}}, "nothing to carry with rl.dynamic.mode='off'"),
        ({"dynamic": {"mode": "on"}}, "must be one of off, refill, drop, zvp"),
    ],
)
def test_what_cannot_be_is_refused(rl, message):
    with pytest.raises(UserError, match=message):
        from_config_dict({"rl": rl, "sampling": {"max_tokens": 16}})
