"""What a step's rollout costs besides the rollout: weights made ready once, verdicts meanwhile."""

from unittest import mock

import pytest
from helpers import quick_compiles
from loops import log, train

from r1jax import mesh as mesh_lib
from r1jax.config import from_config_dict
from r1jax.rollout import decode
from r1jax.rollout.programs import Programs
from r1jax.training.sampling import start_rollout, submit_finished
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
}
SLOW_WAYS = {"several updates a step"}


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=pytest.mark.slow if w in SLOW_WAYS else []) for w in WAYS]
)
def test_weights_are_made_ready_once_a_rollout(way, tmp_path, monkeypatch):
    prepare = mock.Mock(wraps=decode._prepare_params)
    monkeypatch.setattr(decode, "_prepare_params", prepare)
    objective = {"correction": "tis", "correction_high": 2.0} if way == "a step ahead" else {}
    train(tmp_path, {**MICRO, "objective": objective, "rl": {**RL, **WAYS[way]}})
    assert len(log(tmp_path)) == 3
    assert prepare.call_count == 3


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
        in_flight = start_rollout(setup, fresh_params(setup), prompts, 0)
        submit_finished(setup, in_flight, 0)
    counts, ahead = zip(*submitted, strict=True)
    assert sum(counts) == len(texts) == 32
    assert len(set(texts)) > 10
    assert len(counts) > 5
    # Behind the last chunk there is nothing to do but to read what ended in it and before it.
    assert min(ahead[:-2]) > 0
