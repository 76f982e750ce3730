"""The RL loop in this process, on configs small enough for it, and what it wrote down."""

import contextlib
import json
from unittest import mock

import jax
import numpy as np
from helpers import quick_compiles

from r1jax import mesh as mesh_lib
from r1jax.config import from_config_dict
from r1jax.monitor.clock import CompileCounter
from r1jax.monitor.sinks import Sinks
from r1jax.pipeline.replay import VOLATILE
from r1jax.training import rl
from r1jax.training.interrupts import Interrupts
from r1jax.training.session import Session
from r1jax.training.setup import fresh_params, make_setup


@contextlib.contextmanager
def session_in(workdir, config):
    workdir.mkdir(exist_ok=True)
    setup = make_setup(from_config_dict(config))
    sinks, compiles = Sinks(workdir), CompileCounter()
    interrupts = mock.Mock(spec=Interrupts, received=None)
    try:
        with quick_compiles(), mesh_lib.use(setup.mesh):
            yield Session(setup, workdir, sinks, interrupts, compiles)
    finally:
        setup.grader.close()
        compiles.close()
        sinks.close()


def train(workdir, config, **options):
    with session_in(workdir, config) as session:
        return rl.train_rl(session, fresh_params(session.setup), **options)


def log(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def kept(workdir):
    """What was logged, without what differs from process to process."""
    return [{k: v for k, v in line.items() if not k.startswith(VOLATILE)} for line in log(workdir)]


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)
