"""A finding named in logging.stop_on ends the run, and nothing is lost by that."""

import pytest
from runs import assert_same_run


@pytest.mark.slow
def test_a_finding_ends_the_run_and_the_run_goes_on_without_it(runs, whole_run, tmp_path):
    # The micro run never earns a reward: the doctor has to say so, and once.
    done = runs.run(tmp_path / "w", "--config.logging.stop_on=equal_rewards")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ended by config.logging.stop_on: equal_rewards (stop, since step 2" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout.count("doctor: equal_rewards") == 1
    assert "rl  7/12" in done.stdout
    assert "rl  8/12" not in done.stdout
    going_on = runs.run(tmp_path / "w")
    assert going_on.returncode == 0, going_on.stderr
    assert "rl goes on at step 7 of 12" in going_on.stdout
    assert_same_run(tmp_path / "w", whole_run)
