"""Where arrays lie does not change what is learned."""

import json

import pytest
from runs import BY_LANES, records


@pytest.fixture
def eight(runs, monkeypatch):
    """Processes with eight CPU devices."""
    monkeypatch.setitem(runs.env, "JAX_NUM_CPU_DEVICES", "8")
    return runs


MESHES = {
    "data": ["data=8"],
    "fsdp": ["data=1", "fsdp=4"],
    "tensor": ["data=2", "fsdp=2", "tensor=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [pytest.param(m, marks=[] if m == "tensor" else pytest.mark.long) for m in MESHES]
)
def test_a_run_on_eight_devices_is_the_run_on_one(eight, whole_run, tmp_path, mesh):
    done = eight.run(tmp_path, *(f"--config.mesh.{axis}" for axis in MESHES[mesh]))
    assert done.returncode == 0, done.stderr
    # Sums run in another order, so numbers agree to rounding; samples are the same tokens.
    assert (tmp_path / "completions.jsonl").read_text() == (
        whole_run / "completions.jsonl"
    ).read_text()
    for there, here in zip(records(tmp_path), records(whole_run), strict=True):
        assert there.keys() == here.keys()
        assert [k for k in here if here[k] is None] == [k for k in there if there[k] is None]
        for name in [k for k in here if isinstance(here[k], float | int) and k not in BY_LANES]:
            assert there[name] == pytest.approx(here[name], rel=2e-3, abs=2e-5), (name, here)


@pytest.mark.slow
def test_a_run_moves_between_device_counts(eight, whole_run, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    mesh = (f"--config.mesh.{axis}" for axis in MESHES["tensor"])  # compiled for the test above
    first = eight.run(moved, "--config.rl.steps=8", *mesh)
    assert first.returncode == 0, first.stderr
    monkeypatch.delitem(eight.env, "JAX_NUM_CPU_DEVICES")
    second = eight.run(moved)
    assert second.returncode == 0, second.stderr
    assert "goes on at step 8" in second.stdout
    after = [json.loads((w / "summary.json").read_text())["after"] for w in (moved, whole_run)]
    assert after[0] == pytest.approx(after[1], nan_ok=True)
