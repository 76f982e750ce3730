"""What a step's rollout costs besides the rollout: weights made ready once, verdicts meanwhile."""

import functools
from unittest import mock

import pytest
from helpers import quick_compiles
from loops import log, session_in

from r1jax import mesh as mesh_lib
from r1jax.config import from_config_dict
from r1jax.evaluation.evaluate import evaluate_ready
from r1jax.rollout import decode
from r1jax.rollout.programs import Programs
from r1jax.training import rl
from r1jax.training.rl import train_rl
from r1jax.training.sampling import make_ready, start_rollout, submit_finished
from r1jax.training.setup import fresh_params, make_setup

MICRO = {
    "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32},
    "data": {"size": 3, "max_prompt_tokens": 4},
    "sampling": {"max_tokens": 6},
    "reward_weights": {"random": 1.0},
    "optim": {"lr": 0.05},  # so that a step shows
    "mesh": {"data": 1},
}
RL = {"steps": 3, "prompts_per_step": 3, "samples_per_prompt": 4}
WAYS = {
    "one rollout a step": {},
    "dynamic sampling": {"dynamic": {"mode": "refill", "budget": 3, "exhausted": "fewer"}},
    "a step ahead": {"asynchronous": True},
    "several updates a step": {"updates_per_step": 3, "epochs": 2},
    "eight bits": {},
}
SLOW_WAYS = {"several updates a step", "eight bits"}


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=pytest.mark.slow if w in SLOW_WAYS else []) for w in WAYS]
)
def test_weights_are_made_ready_once_a_policy(way, tmp_path, monkeypatch):
    """For its rollouts and its evaluation, and given up when it is updated."""
    prepare = mock.Mock(wraps=decode._prepare_params)
    monkeypatch.setattr(decode, "_prepare_params", prepare)
    held, learn = [], rl.learn

    def learned(setup, run, *rest):
        stats = learn(setup, run, *rest)
        held.append(run.ready)
        return stats

    monkeypatch.setattr(rl, "learn", learned)
    off_policy = way in ("a step ahead", "eight bits")
    objective = {"correction": "tis", "correction_high": 2.0} if off_policy else {}
    tree = {"objective": objective, "rl": {**RL, **WAYS[way]}}
    tree |= {"rollout": {"int8_weights": way == "eight bits"}}
    tree |= {"eval": {"every": 2, "prompts": 3, "samples": 2, "k": 2}}
    with session_in(tmp_path, {**MICRO, **tree}) as session:
        evaluate = functools.partial(evaluate_ready, session.setup)
        train_rl(session, fresh_params(session.setup), evaluate)
    # Those of no, one and two updates; the last is also measured, the first of a run that is a step
    # ahead samples two steps.
    rounded = [int8 for _, int8, _ in (call.args for call in prepare.call_args_list)]
    # It is the policy itself that is measured: it has a form more where rollouts round it.
    assert rounded == ([True, True, False, True] if way == "eight bits" else [False] * 3)
    assert [row["phase"] for row in log(tmp_path)].count("rl") == 3
    assert [row["phase"] for row in log(tmp_path)].count("evaluate") == 1
    assert held == [None] * 3


def test_texts_are_handed_to_grading_while_the_device_goes_on(monkeypatch):
    """Some at a time, with decoding under way that nobody has waited for."""
    run, reports, submitted, texts = Programs.run, [], [], []

    def told(programs, loop, *rest, **options):
        loop, report = run(programs, loop, *rest, **options)
        reports.append(report)
        return loop, report

    def submit(samples):
        submitted.append((len(samples), int(reports[-1].steps) - in_flight.steps))
        texts.extend(sample.text for sample in samples)
        return judge(samples)

    monkeypatch.setattr(Programs, "run", told)
    tree = {**MICRO, "rl": {**RL, "prompts_per_step": 8}}
    rollout = {"slots": 4, "chunk": 1, "lanes": 1, "share_prompts": "never"}
    setup = make_setup(from_config_dict({**tree, "rollout": rollout}))
    judge = setup.grader.submit
    monkeypatch.setattr(setup.grader, "submit", submit)
    with quick_compiles(), mesh_lib.use(setup.mesh), setup.grader:
        prompts = setup.prompts_at("train", range(8))
        in_flight = start_rollout(setup, make_ready(setup, fresh_params(setup)), prompts, 0)
        submit_finished(setup, in_flight, 0)
    counts, ahead = zip(*submitted, strict=True)
    assert sum(counts) == len(texts) == 32
    assert len(set(texts)) > 10
    assert len(counts) > 5
    # Behind the last chunk there is nothing to do but to read what ended in it and before it.
    assert min(ahead[:-2]) > 0
