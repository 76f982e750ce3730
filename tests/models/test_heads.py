"""Scalar heads: where their numbers are read, packing, devices, saving, and transformers' files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_tiny, random_sequences

from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.errors import UserError
from r1jax.models import heads
from r1jax.models.axes import logical_axes
from r1jax.objectives import advantages
from r1jax.ops import packing
from r1jax.training.checkpoint import Checkpoints

score = jax.jit(heads.scores, static_argnums=0)


def make_scored(*, bias=False, **changes):
    module, params = heads.attach(*make_tiny(tied_head=False, **changes), seed=3, bias=bias)
    if bias:
        params = {**params, heads.BIAS: jnp.array([0.7])}
    return module, params


def test_a_head_reads_the_hidden_states():
    whole, plain = make_tiny(tied_head=False)
    tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
    hidden = whole.apply({"params": plain}, tokens, method="hidden")
    for bias in (False, True):
        module, params = make_scored(bias=bias)
        assert "head" not in params
        wanted = np.float64(hidden) @ np.float64(params["score"]) + 0.7 * bias
        np.testing.assert_allclose(score(module, params, tokens), wanted, atol=1e-5)


def test_a_critic_starts_at_zero():
    module, params = heads.attach(*make_tiny())
    assert not score(module, params, jnp.ones((1, 4), jnp.int32)).any()
    spread = make_scored(width=512, heads=4)[1]["score"].std()
    assert abs(spread - 513**-0.5) < 0.005


def test_packed_sequences_score_as_they_do_alone():
    module, params = make_scored(bias=True)
    sequences = random_sequences(np.random.default_rng(0), 7, longest=9)
    packed = packing.pack(sequences, row_length=24)
    arrays = [jnp.asarray(a) for a in (packed.tokens, packed.positions, packed.segment_ids)]
    scores = score(module, params, *arrays)
    ends = heads.sequence_scores(scores, arrays[2], most=5)
    found = []
    for row, segments in enumerate(packed.segment_ids):
        for segment in range(1, segments.max() + 1):
            own = segments == segment
            tokens = jnp.asarray(packed.tokens[row][own])[None]
            alone = score(module, params, tokens)[0]
            np.testing.assert_allclose(scores[row][own], alone, atol=1e-5)
            np.testing.assert_allclose(ends[row, segment - 1], alone[-1], atol=1e-5)
            found.append(len(alone))
        assert not ends[row, segments.max() :].any()
    assert len(found) == 7


def test_the_last_token_is_found_in_any_row():
    segments = jnp.array([[1, 1, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    wanted = [[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1], [0] * 6]
    np.testing.assert_array_equal(heads.last_tokens(segments), np.array(wanted, bool))


def test_step_rewards_are_what_process_supervision_takes():
    tokens = jnp.array([[5, 9, 5, 5, 8, 9], [9, 5, 5, 5, 5, 5]])
    mask = jnp.array([[True] * 5 + [False], [False] + [True] * 5])
    ends = heads.step_ends(tokens, mask, (8, 9))
    np.testing.assert_array_equal(ends, [[0, 1, 0, 0, 1, 0], [0] * 6])
    scores = jnp.arange(12, dtype=jnp.float32).reshape(2, 6)
    rewards, places = heads.step_scores(scores, ends, most=3)
    np.testing.assert_array_equal(places, [[1, 4, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(rewards, [[1, 4, 0], [0, 0, 0]])
    sums = advantages.process_sum(rewards[None], places[None], length=6)
    low, high = -(0.5**0.5), 0.5**0.5  # of two rewards, normalised
    np.testing.assert_allclose(sums[0, 0], [low + high] * 2 + [high] * 3 + [0], atol=1e-5)
    assert not sums[0, 1].any()


def test_split_over_devices_nothing_changes():
    module, params = make_scored(bias=True)
    tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
    whole = score(module, params, tokens)
    mesh = mesh_lib.make_mesh(2, 2, 2)
    shardings = mesh_lib.param_shardings(mesh, params, logical_axes(params))
    split = jax.device_put(params, shardings)
    assert split["score"].sharding.spec == jax.P("fsdp")
    with mesh_lib.use(mesh):
        np.testing.assert_allclose(score(module, split, tokens), whole, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_saved_and_loaded_it_is_the_same(bias, tmp_path):
    module, params = make_scored(bias=bias, qkv_bias=True)
    models.save_hf(module, params, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    kind = "ForTokenClassification" if bias else "ForSequenceClassification"
    assert settings["architectures"] == [f"Qwen2{kind}"]
    again, loaded = models.load(tmp_path / "out", mesh=mesh_lib.make_mesh(1, 2, 2))
    assert again.config.tied_head
    jax.tree.map(np.testing.assert_array_equal, loaded, params)

    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, params, {})
    checkpoints.wait()
    _, restored, _ = checkpoints.restore(jax.eval_shape(lambda: params))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_several_labels_are_refused(tmp_path):
    models.save_hf(*make_scored(qkv_bias=True), tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    settings = json.loads(path.read_text())
    for change in ({"id2label": {"0": "bad", "1": "good"}}, {"num_labels": 3}):
        path.write_text(json.dumps({**settings, **change}))
        with pytest.raises(UserError, match="labels is not supported"):
            models.load(tmp_path / "out")
    del settings["id2label"]
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="with 2 labels"):
        models.load(tmp_path / "out")
