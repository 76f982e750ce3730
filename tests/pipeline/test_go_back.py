"""Checkpoints that are kept, a run that goes back to one, a step that is done again."""

import json
import shutil

import pytest
from runs import assert_same_run, records

from r1jax import mesh as mesh_lib
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import evaluate
from r1jax.training.load import load_policy
from r1jax.training.workdir import go_back


def replay(runs, workdir, step):
    return runs.r1jax("train", f"--workdir={workdir}", f"--replay={step}")


def change(workdir, step, name):
    path = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (line,) = [line for line in lines if (line["phase"], line["step"]) == ("rl", step)]
    line[name] *= 1 + 2**-23  # one bit of a float32
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return line[name]


def test_a_step_done_again_is_what_was_logged_and_one_bit_is_noticed(runs, whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    wrong = change(run, 9, "entropy")
    before = sorted(path.name for path in run.iterdir())
    done = replay(runs, run, 9)  # the second after a checkpoint
    assert done.returncode == 1, done.stderr
    (difference,) = [line for line in done.stdout.splitlines() if "was logged" in line]
    assert difference.startswith(f"entropy: {wrong!r} was logged, ")
    assert sorted(path.name for path in run.iterdir()) == before
    assert sorted(p.name for p in (run / "checkpoints/rl").iterdir()) == ["12", "8"]


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 8, 11])
def test_any_step_can_be_done_again(runs, whole_run, step):
    done = replay(runs, whole_run, step)
    assert done.returncode == 0, done.stderr
    assert f"rl step {step} is the same, bit for bit" in done.stdout


@pytest.mark.slow
def test_what_cannot_be_replayed_is_said(runs, whole_run):
    done = replay(runs, whole_run, 12)
    assert (done.returncode, "has not logged this step" in done.stderr) == (2, True)


@pytest.mark.slow
def test_milestones_and_the_best_stay_and_a_run_goes_back_to_one(runs, whole_run, tmp_path):
    run = tmp_path / "run"
    flags = [
        "--config.checkpoint.every=1",
        "--config.checkpoint.keep=1",
        "--config.checkpoint.milestone=5",
        "--config.checkpoint.best=true",
        "--config.eval.every=3",
    ]
    done = runs.run(run, *flags)
    assert done.returncode == 0, done.stderr
    kept = sorted(int(path.name) for path in (run / "checkpoints/rl").iterdir())
    assert kept == [5, 10, 12]
    measured = {
        line["step"]: line["accuracy"] for line in records(run) if line["phase"] == "evaluate"
    }
    best = max(measured, key=measured.__getitem__)
    assert [path.name for path in (run / "checkpoints/best").iterdir()] == [str(best)]
    check_commands_on_any(run, best, measured[best])
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    done = runs.run(run, *flags, "--resume=5")
    assert done.returncode == 0, done.stderr
    assert "rl goes on at step 5 of 12" in done.stdout
    assert_same_run(run, whole)
    later = sorted(path.name for path in (run / "checkpoints/later").iterdir())
    assert later == ["rl-10", "rl-12"]
    done = runs.run(run, *flags, "--resume=7")
    assert done.returncode == 2
    assert "no such checkpoint" in done.stderr


def check_commands_on_any(run, best, accuracy):
    """Checkpoints that other commands can be asked for; what they cannot have, they say."""
    assert [load_policy(run, step=step, overrides={})[2] for step in ("5", "")] == [5, 12]
    setup, params, step = load_policy(run, step="best", overrides={})
    with setup.grader, mesh_lib.use(setup.mesh):
        assert (step, evaluate(setup, params)["accuracy"]) == (best, accuracy)
    wrong = {"7": "no checkpoint 7; there are: 5, 10, 12", "last": "must be the number of"}
    for name, text in wrong.items():
        with pytest.raises(UserError, match=text):
            load_policy(run, step=name, overrides={})
    with pytest.raises(UserError, match="--base and --step"):
        load_policy(run, base=True, step="5", overrides={})


def test_going_back_loses_nothing(tmp_path):
    for name in ("rl/4", "rl/8", "rl/12", "best/6", "later/rl-12"):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "what").write_text(name)
    (tmp_path / "summary.json").write_text('{"before": {"step": 0}, "after": {"step": 12}}')
    go_back(tmp_path, "rl", 6)  # which is there as the best only
    found = {
        str(path.parent.relative_to(tmp_path / "checkpoints")): path.read_text()
        for path in tmp_path.rglob("what")
    }
    assert found == {
        "rl/4": "rl/4",
        "rl/6": "best/6",
        "best/6": "best/6",
        "later/rl-8": "rl/8",
        "later/rl-12": "later/rl-12",
        "later/rl-12.1": "rl/12",
    }
    assert json.loads((tmp_path / "summary.json").read_text())["after"] is None
    with pytest.raises(UserError, match=r"--resume=5: no such checkpoint in .*; there are: 4, 6"):
        go_back(tmp_path, "rl", 5)
