"""PPO with a critic in the loop: it goes on bit for bit, on any devices, and it learns."""

import copy
import json
import pathlib
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import kept_compiles
from runs import BY_LANES, assert_same_run, records

from r1jax import mesh as mesh_lib
from r1jax.config import from_config_dict
from r1jax.monitor.clock import CompileCounter
from r1jax.monitor.sinks import Sinks
from r1jax.rewards.samples import Judgement
from r1jax.training import rl
from r1jax.training.interrupts import Interrupts
from r1jax.training.session import Session
from r1jax.training.setup import fresh_params, make_setup

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
STEPS = 4
# A coin pays, so that a model that knows nothing has something to learn from.
MICRO = {
    "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 2, "head_dim": 8, "ffn": 32},
    "data": {"size": 3, "max_prompt_tokens": 4},
    "rl": {
        "steps": STEPS,
        "advantage": "gae",
        "prompts_per_step": 16,
        "samples_per_prompt": 1,
        "updates_per_step": 2,
        "positive_nll": 0.1,
    },
    "objective": {"kl": "k1", "kl_coef": 0.01, "kl_in_reward": True},
    "critic": {"pretrain_steps": 1, "lam": 0.9, "optim": {"lr": 1e-2}},
    "reward": "random",
    "sampling": {"max_tokens": 8},
    "optim": {"lr": 1e-2},
    "mesh": {"data": 1},
    "checkpoint": {"every": 2},
}


def train(workdir, until=None, mesh=None):
    """The reinforcement learning of a fresh model, in this process."""
    tree = copy.deepcopy(MICRO)
    config = from_config_dict({**tree, "mesh": mesh or tree["mesh"]})
    workdir.mkdir(exist_ok=True)
    setup, sinks, compiles = make_setup(config), Sinks(workdir), CompileCounter()
    try:
        with Interrupts() as interrupts, mesh_lib.use(setup.mesh):
            session = Session(setup, workdir, sinks, interrupts, compiles)
            base = fresh_params(setup)
            return rl.train_rl(session, base, until=until)
    finally:
        setup.grader.close()
        compiles.close()
        sinks.close()


def seal(workdir) -> list[int]:
    """Of the last checkpoint: fingerprints of all arrays, the critic's too, and of the books."""
    return json.loads((workdir / f"checkpoints/rl/{STEPS}/run/metadata").read_text())["seal"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    with kept_compiles(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def whole(compiled, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    state = jax.device_get(train(workdir))
    return workdir, state


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_run_that_nothing_disturbed(whole, tmp_path):
    workdir, state = whole
    train(tmp_path, until=2)
    again = train(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
    assert records(tmp_path) == records(workdir)
    assert seal(tmp_path) == seal(workdir)
    saved = (workdir / f"checkpoints/rl/{STEPS}/state/_METADATA").read_text()
    assert "'critic', 'params', 'score'" in saved
    assert "'critic', 'opt_state'" in saved


@pytest.mark.slow
def test_the_critic_learns_alone_then_with_the_policy_and_nothing_is_compiled_again(whole):
    lines = [json.loads(line) for line in (whole[0] / "metrics.jsonl").read_text().splitlines()]
    numbers = ("loss", "clip_fraction", "explained_variance", "mean", "returns", "grad_norm")
    assert all(np.isfinite(line[f"value/{name}"]) for line in lines for name in numbers)
    assert ["loss" in line for line in lines] == [False] + [True] * (STEPS - 1)
    assert ["staleness/max" in line for line in lines] == [False] + [True] * (STEPS - 1)
    assert lines[0]["value/mean"] == 0 != lines[1]["value/mean"]
    assert 0 < lines[0]["value/returns"] < 1  # a coin's; by tokens, where the reward is by samples
    assert all(line["positive_nll"] == 0 for line in lines[1:])  # no answer is right
    assert lines[1]["compiles"] > lines[0]["compiles"]  # the policy's update
    assert lines[-1]["compiles"] == lines[2]["compiles"]  # after the first checkpoint
    assert all(line["reward_std"] is None for line in lines)  # of groups of one


@pytest.mark.slow
def test_right_answers_are_learned_by_their_likelihood(compiled, tmp_path, monkeypatch):
    """A coin says what is right, keyed by sample."""

    def at_once(sample, _name):
        right = bool(np.random.default_rng(sample.key).random() < 0.5)
        return Judgement(float(right), correct=right)

    monkeypatch.setattr("r1jax.rewards.verifiers.at_once", at_once)
    train(tmp_path, until=2)
    first, second = records(tmp_path)
    assert "positive_nll" not in first  # the critic learns alone
    assert 0.2 < second["accuracy"] < 0.8
    assert 1 < second["positive_nll"] < 6  # a fresh model's, by tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [pytest.param({"data": 8}, marks=pytest.mark.long), {"data": 2, "fsdp": 2, "tensor": 2}],
)
def test_eight_devices_go_on_where_one_was(tmp_path, mesh):
    """Sums run in another order, so numbers agree to rounding."""
    train(tmp_path / "one")
    train(tmp_path / "moved", until=2)
    train(tmp_path / "moved", mesh=mesh)
    moved = [(w / "completions.jsonl").read_text() for w in (tmp_path / "one", tmp_path / "moved")]
    assert moved[0] == moved[1]
    pairs = zip(records(tmp_path / "moved"), records(tmp_path / "one"), strict=True)
    for there, here in pairs:
        assert there.keys() == here.keys()
        for name in [k for k in here if isinstance(here[k], float | int) and k not in BY_LANES]:
            assert there[name] == pytest.approx(here[name], rel=2e-3, abs=2e-5), (name, here)


PPO = [
    "--config.rl.advantage=gae",
    "--config.rl.prompts_per_step=16",
    "--config.rl.samples_per_prompt=1",
    "--config.objective.kl=k1",
    "--config.objective.kl_in_reward=true",
    "--config.critic.pretrain_steps=2",
    "--config.critic.optim.lr=1e-3",
]


@pytest.mark.slow
@pytest.mark.long
def test_killed_anywhere_and_run_again_is_the_same_run(runs, tmp_path):
    rng = random.Random(0)
    done = runs.run(tmp_path / "whole", *PPO)
    assert done.returncode == 0, done.stderr
    for count in (7, 12, 16):
        process = runs.start(tmp_path / "killed", *PPO)
        path, deadline = tmp_path / "killed/metrics.jsonl", time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if path.exists() and path.read_text().count("\n") >= count:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.communicate()
    done = runs.run(tmp_path / "killed", *PPO)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.long
def test_ppo_learns(tmp_path):
    """Less of ppo_tiny: fewer digits, a shorter base, fewer steps."""
    command = [sys.executable, "-m", "r1jax", "train", f"--config={CONFIGS}/ppo_tiny.py"]
    less = ["--config.data.size=4", "--config.pretrain.steps=800", "--config.rl.steps=24"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}", *less], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    assert after["accuracy"] > before["accuracy"] + 0.5
    assert after["mean_length"] > 1.3 * before["mean_length"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    explained = [line["value/explained_variance"] for line in lines if line["phase"] == "rl"]
    assert explained[0] == pytest.approx(0, abs=1e-6)
    assert max(explained) > 0.3
