"""Dynamic sampling, epochs, stages, a replaced reference: stopped anywhere, it is the same run."""

import json
import random
import shutil
import time

import pytest
from runs import assert_same_run, records

# A parity of three bits is guessed often enough for groups of mixed answers. Groups are
# carried over step 9, whose checkpoint falls between two references (8 and 12).
EVERYTHING = [
    "--config.seed=1",
    "--config.data.task=parity",
    "--config.pretrain.steps=60",
    "--config.rl.dynamic.mode=refill",
    "--config.rl.dynamic.carry=true",
    "--config.rl.epochs=2",
    "--config.rl.mask_cut=true",
    "--config.rl.reference_every=4",
    "--config.rl.reset_on_stall=1",
    "--config.rl.stages=((0, 8, 1.0), (5, 10, 0.8))",
    "--config.eval.every=4",
    "--config.checkpoint.every=3",
]


@pytest.fixture(scope="module")
def whole(runs):
    workdir = runs.folder / "everything"
    done = runs.run(workdir, *EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert "the optimizer starts anew" in done.stdout
    return workdir


@pytest.mark.slow
def test_a_run_with_everything_goes_on_as_if_nothing_had_happened(runs, whole, tmp_path):
    lines = [line for line in records(whole) if line["phase"] == "rl"]
    longest = [line["completions/max_length"] for line in lines]
    assert max(longest[:5]) <= 8 < max(longest[5:])
    assert lines[8]["dynamic/carried"] > 0
    ages = [line["staleness/max"] for line in lines]
    assert ages[0] == 3  # four updates of its own step, the last after three
    assert max(ages) == 7  # and all of the step before
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/rl/12")
    done = runs.run(cut, *EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert "goes on at step 9" in done.stdout
    assert_same_run(whole, cut)
    measured = [line["step"] for line in records(cut) if line["phase"] == "evaluate"]
    assert measured == [4, 8, 12]


@pytest.mark.slow
def test_killed_while_it_samples_it_is_the_same_run(runs, whole, tmp_path):
    rng, workdir = random.Random(0), tmp_path / "killed"
    for count in range(8, 20, 2):
        process = runs.start(workdir, *EVERYTHING)
        path, deadline = workdir / "metrics.jsonl", time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if path.exists() and path.read_text().count("\n") >= count:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.communicate()
    done = runs.run(workdir, *EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert_same_run(workdir, whole)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["drop", "zvp"])
def test_the_alternatives_run(runs, tmp_path, mode):
    flags = [*EVERYTHING[:3], f"--config.rl.dynamic.mode={mode}", "--config.rl.steps=2"]
    done = runs.run(tmp_path / mode, *flags)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / mode / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines].count("rl") == 2


@pytest.mark.slow
def test_the_update_leaves_out_what_sampling_left_out(runs, tmp_path):
    """A policy cut to three tokens is another one than the trainer's, unless it says which."""
    flags = ["sampling.top_k=3", "pretrain.steps=2", "rl.steps=2"]
    flags = [f"--config.{flag}" for flag in flags]
    done = runs.run(tmp_path / "told", *flags, "--config.sampling.record_kept=true")
    assert done.returncode == 0, done.stderr
    gaps = [
        line["sampling/sampling_logp_difference/max"]
        for line in records(tmp_path / "told")
        if line["phase"] == "rl"
    ]
    assert len(gaps) == 2
    assert max(gaps) < 1e-4
    done = runs.run(tmp_path / "untold", *flags)
    assert done.returncode == 2
    assert "rl step 0: sampler and trainer differ by" in done.stderr
