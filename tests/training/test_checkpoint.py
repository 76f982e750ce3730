"""Checkpoints come back bit for bit on any sharding; a damaged one is noticed and passed over."""

import dataclasses
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax import mesh as mesh_lib
from r1jax.errors import UserError
from r1jax.training.checkpoint import Checkpoints, fingerprint
from r1jax.training.step import init_state

RUN = {"num_tokens": 1234, "name": "tiny"}


def make_state(seed, *axes):
    """A state of odd bit patterns (signed zero, denormal, NaN), its matrices split over `axes`."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(16, 24)).astype(np.float32)
    values[0, :4] = [-0.0, 1e-42, np.nan, np.inf]
    params = {"w": values, "half": values[:, :8].astype(jnp.bfloat16), "b": np.full(8, seed, "f4")}
    state = init_state(jax.tree.map(jnp.asarray, params), optax.adam(0.1))
    mesh = mesh_lib.make_mesh(data=1, fsdp=4, tensor=2)

    def place(leaf):
        spec = PartitionSpec(*axes) if leaf.ndim == 2 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def open_checkpoints(tmp_path):
    """A function that opens the same directory, as each run of a command does."""
    opened = []

    def open_again(keep=3):
        said = []
        opened.append(Checkpoints(tmp_path / "checkpoints" / "rl", keep=keep, say=said.append))
        return opened[-1], said

    yield open_again
    for checkpoints in opened:
        checkpoints.close()


@pytest.fixture(scope="module")
def three_saved(tmp_path_factory):
    """A directory with the checkpoints of steps 1, 2 and 3."""
    path = tmp_path_factory.mktemp("saved") / "checkpoints" / "rl"
    checkpoints = Checkpoints(path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), {**RUN, "step": step})
    checkpoints.wait()
    checkpoints.close()
    return path


@pytest.fixture
def copied(three_saved, tmp_path):
    shutil.copytree(three_saved, tmp_path / "checkpoints" / "rl")
    return tmp_path / "checkpoints" / "rl"


def test_what_is_restored_on_another_sharding_is_the_same_to_the_bit(open_checkpoints):
    checkpoints, said = open_checkpoints()
    saved = make_state(1, "fsdp", "tensor")
    checkpoints.save(7, saved, RUN)
    checkpoints.wait()
    wanted = make_state(2, "tensor")
    step, restored, run = open_checkpoints()[0].restore(abstract(wanted))
    assert (step, run, said) == (7, RUN, [])
    assert bits(restored) == bits(saved)
    for leaf, like in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
        assert leaf.dtype == like.dtype


def test_nothing_saved_is_nothing_restored(open_checkpoints):
    assert open_checkpoints()[0].restore(abstract(make_state(0))) is None


def test_the_newest_comes_first(copied, open_checkpoints):
    step, state, run = open_checkpoints()[0].restore(abstract(make_state(0)))
    assert step == run["step"] == 3
    assert bits(state) == bits(make_state(3))


def test_one_of_them(copied, open_checkpoints):
    checkpoints, _ = open_checkpoints()
    step, state, _ = checkpoints.restore(abstract(make_state(0)), only=2)
    assert step == 2
    assert bits(state) == bits(make_state(2))
    with pytest.raises(UserError, match=r"no checkpoint 5; there are: 1, 2, 3$"):
        checkpoints.restore(abstract(make_state(0)), only=5)


def test_a_checkpoint_from_before_a_field_was_known_is_read(open_checkpoints):
    """As an earlier version wrote it; what this one needs and it has not, it cannot give."""
    earlier = dataclasses.make_dataclass("Earlier", ["params", "opt_state", "step", "reference"])
    jax.tree_util.register_dataclass(earlier, [f.name for f in dataclasses.fields(earlier)], [])
    saved = make_state(1)
    checkpoints, said = open_checkpoints()
    checkpoints.save(4, earlier(saved.params, saved.opt_state, saved.step, None), RUN)
    checkpoints.wait()
    like = abstract(make_state(0))
    step, restored, _ = open_checkpoints()[0].restore(like)
    assert (step, type(restored), bits(restored)) == (4, type(saved), bits(saved))
    again, said = open_checkpoints()
    with pytest.raises(UserError, match="damaged"):
        again.restore(dataclasses.replace(like, critic=like.params))
    assert "ValueError: it has no critic)" in said[0]


def test_only_the_last_ones_are_kept(open_checkpoints):
    checkpoints, _ = open_checkpoints(keep=2)
    for step in (1, 2, 10):
        checkpoints.save(step, make_state(step), RUN)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 10]


def files_of(directory):
    return sorted(path for path in pathlib.Path(directory).rglob("*") if path.is_file())


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped at the start": lambda path: flip(path, 0.0),
    "flipped in the middle": lambda path: flip(path, 0.5),
    "flipped near the end": lambda path: flip(path, 0.97),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ("damage", "every"),
    [
        ("flipped in the middle", 3),
        *(pytest.param(damage, 1, marks=pytest.mark.slow) for damage in DAMAGES),
    ],
)
def test_no_damage_to_a_file_goes_unnoticed(damage, every, three_saved, tmp_path):
    """Each file, or every third: the newest comes back, or the one before with a word about it."""
    like = abstract(make_state(0))
    fell_back = 0
    for number, file in enumerate(files_of(three_saved / "3")[::every]):
        path = tmp_path / str(number) / "rl"
        shutil.copytree(three_saved, path)
        DAMAGES[damage](path / "3" / file.relative_to(three_saved / "3"))
        said = []
        checkpoints = Checkpoints(path, keep=3, say=said.append)
        step, state, run = checkpoints.restore(like)
        checkpoints.close()
        assert bits(state) == bits(make_state(step))
        assert run == {**RUN, "step": step}
        assert (step, len(said)) in ((3, 0), (2, 1)), file
        fell_back += step == 2
    assert fell_back > 0


def test_a_changed_digit_in_the_books_is_noticed(copied, open_checkpoints):
    """It is still JSON, and no array has changed."""
    [file] = [path for path in files_of(copied / "3" / "run") if b"1234" in path.read_bytes()]
    file.write_bytes(file.read_bytes().replace(b"1234", b"1235"))
    step, _, run = open_checkpoints()[0].restore(abstract(make_state(0)))
    assert (step, run) == (2, {**RUN, "step": 2})


def test_a_damaged_checkpoint_is_named_and_moved_aside(copied, open_checkpoints):
    shutil.rmtree(copied / "3" / "state")
    checkpoints, said = open_checkpoints()
    step, state, _ = checkpoints.restore(abstract(make_state(0)))
    assert step == 2
    assert bits(state) == bits(make_state(2))
    assert len(said) == 1
    assert said[0].startswith("checkpoint 3 is damaged")
    assert checkpoints.steps() == [1, 2]
    assert (copied.parent / "damaged" / "rl-3").is_dir()


def test_saving_goes_on_after_a_fallback(copied, open_checkpoints):
    """The run does the lost step again and saves it under the same number."""
    shutil.rmtree(copied / "3" / "state")
    checkpoints, _ = open_checkpoints()
    checkpoints.restore(abstract(make_state(0)))
    checkpoints.save(3, make_state(33), RUN)
    checkpoints.wait()
    step, state, _ = open_checkpoints()[0].restore(abstract(make_state(0)))
    assert step == 3
    assert bits(state) == bits(make_state(33))


def test_without_a_good_checkpoint_the_run_stops_and_all_are_kept_aside(copied, open_checkpoints):
    for step in (1, 2, 3):
        shutil.rmtree(copied / str(step) / "state")
    checkpoints, said = open_checkpoints()
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(\[3, 2, 1\]\)"):
        checkpoints.restore(abstract(make_state(0)))
    assert len(said) == 3
    assert len(list((copied.parent / "damaged").iterdir())) == 3


def test_two_damaged_checkpoints_of_one_step_are_both_kept(copied, open_checkpoints):
    for _ in range(2):
        shutil.rmtree(copied / "3" / "state")
        checkpoints, _ = open_checkpoints()
        checkpoints.restore(abstract(make_state(0)))
        checkpoints.save(3, make_state(3), RUN)
        checkpoints.wait()
    assert len(list((copied.parent / "damaged").iterdir())) == 2


def test_a_fingerprint_is_of_bits_and_not_of_sharding():
    state = make_state(1)
    assert fingerprint(state) == fingerprint(make_state(1, "fsdp", "tensor"))
    nudged = {**state.params, "w": jnp.where(state.params["w"] == 0, 0.0, state.params["w"])}
    assert fingerprint(state.params) != fingerprint(nudged)


def test_a_fingerprint_tells_exchanged_arrays_and_rows():
    a, b = jnp.arange(6.0).reshape(3, 2), jnp.ones((3, 2))
    assert fingerprint({"x": a, "y": b}) != fingerprint({"x": b, "y": a})
    assert fingerprint(a) != fingerprint(a[::-1])
