"""Multi-token prediction: the module by hand, its loss, its drafts, its place in a checkpoint."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, make_tiny, quick_compiles
from test_transformer import VARIANTS, attention_by_hand, make_packed, moe_by_hand, norm_by_hand

from r1jax import models
from r1jax.errors import UserError
from r1jax.models import mtp, transformer
from r1jax.models.axes import logical_axes
from r1jax.models.hf import files

CHANGES = {**VARIANTS["deepseek"], "mtp": True, "tied_head": False}


@pytest.fixture(autouse=True)
def _quick_compiles():
    with quick_compiles():
        yield


def mtp_by_hand(config, params, hidden, next_tokens):
    """One sequence, in float64; `hidden` as the head reads them."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    p = params["mtp"]
    embedded = norm_by_hand(params["embedding"][next_tokens], p["token_norm"])
    x = np.concatenate([embedded, norm_by_hand(hidden, p["hidden_norm"])], axis=-1) @ p["join"]
    block = p["block"]
    normed = norm_by_hand(x, block["attention_norm"])
    x = x + attention_by_hand(config, block["attention"], normed, None)
    x = x + moe_by_hand(config.moe, block["moe"], norm_by_hand(x, block["mlp_norm"]))
    return norm_by_hand(x, p["output_norm"])


def run(module, params, batch):
    hidden = module.apply(
        {"params": params}, batch.tokens, batch.positions, batch.segment_ids, method="hidden"
    )
    inputs = (hidden, batch.targets, batch.positions, batch.segment_ids)
    further, routing = module.apply({"params": params}, *inputs, method="mtp_hidden")
    return hidden, further, routing


def as_arrays(batch):
    return jax.tree.map(jnp.asarray, batch)


def test_packed_states_and_loss_are_those_of_each_sequence_by_hand():
    module, params = make_tiny(**CHANGES)
    batch = as_arrays(make_packed())

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss_of(params):
        found = run(module, params, batch)
        names = ("targets", "positions", "segment_ids", "mask")
        places = {name: getattr(batch, name) for name in names}
        loss, count, _ = mtp.mtp_loss(module, params, found[0], **places)
        return loss, (count, *found)

    (loss, (found_count, hidden, further, routing)), grads = loss_of(params)
    assert set(routing) == {"mtp"}
    assert float(routing["mtp"].tokens) == np.sum(np.asarray(batch.segment_ids) > 0)
    wanted, count = 0.0, 0
    head = np.float64(params["head"])
    for row, ids in enumerate(np.asarray(batch.segment_ids)):
        for segment in range(1, ids.max() + 1):
            places = np.flatnonzero(ids == segment)
            targets = np.asarray(batch.targets[row, places])
            found = mtp_by_hand(module.config, params, np.float64(hidden[row, places]), targets)
            np.testing.assert_allclose(further[row, places], found, atol=2e-5)
            logits = found[:-1] @ head
            logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            counted = np.asarray(batch.mask[row, places[1:]])
            wanted -= logp[np.arange(len(logp)), targets[1:]][counted].sum()
            count += counted.sum()
    assert float(found_count) == count > 10
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    # It reaches the module, and through the hidden states the model.
    assert grads["mtp"]["join"].any()
    assert grads["layers_0"]["block"]["gate"].any()
    assert grads["embedding"].any()
    assert not grads["mtp"]["block"]["moe"]["router_bias"].any()


def test_drafts_are_those_of_the_training_path():
    module, params = make_tiny(**CHANGES)
    config = module.config
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, TINY.vocab_size, (3, 11)))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    places = jnp.broadcast_to(jnp.arange(10)[None], inputs.shape)
    batch = dataclasses.replace(
        as_arrays(make_packed()),
        tokens=inputs,
        targets=targets,
        positions=places,
        segment_ids=jnp.ones_like(places),
    )
    hidden, wanted, _ = jax.jit(functools.partial(run, module))(params, batch)
    decode_params = jax.jit(transformer.prepare_decode_params, static_argnums=0)(config, params)
    lengths = jnp.array([2, 5, 4])
    draft, cache = jax.jit(mtp.mtp_prefill, static_argnums=0)(
        config, decode_params, hidden[:, :5], targets[:, :5], lengths
    )
    assert [leaf.shape for leaf in jax.tree.leaves(cache)] == [(3, 1, 5, 16), (3, 1, 5, 0)]
    rows = jnp.arange(3)
    np.testing.assert_allclose(draft, wanted[rows, lengths - 1], atol=1e-5)
    room = ((0, 0), (0, 0), (0, 5), (0, 0))
    cache = jax.tree.map(lambda leaf: jnp.pad(leaf, room), cache)
    step = jax.jit(mtp.mtp_extend, static_argnums=0)
    nothing = jnp.zeros_like(lengths)
    for offset in (0, 2, 3):  # two places at once, then one, then two
        at = lengths[:, None] + offset + jnp.arange(2 - (offset == 2))[None]
        inputs = (hidden[rows[:, None], at], targets[rows[:, None], at], None, cache)
        draft, cache = step(
            config, decode_params, *inputs, prefix_lengths_R=nothing, filled_R=at[:, 0]
        )
        np.testing.assert_allclose(draft, wanted[rows[:, None], at], atol=1e-5)


@pytest.fixture
def saved(tmp_path):
    module, params = make_tiny(**CHANGES, layers=3, max_positions=99)
    models.save_hf(module, params, tmp_path / "model")
    return module, params, tmp_path / "model"


def rewrite(folder, change):
    path = folder / files.SINGLE
    arrays = {name: np.array(t.array()) for name, t in files.read_header(path).items()}
    arrays = change(arrays)
    about = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    files.write_file(path, about, arrays.__getitem__)


def test_the_module_is_saved_as_deepseek_has_it_and_loaded_back(saved, tmp_path):
    module, params, folder = saved
    names = {name for name in files.open_folder(folder) if name.startswith("model.layers.3.")}
    outside = "enorm hnorm eh_proj shared_head.norm shared_head.head embed_tokens"
    assert {f"model.layers.3.{name}.weight" for name in outside.split()} < names
    assert "model.layers.3.mlp.experts.7.down_proj.weight" in names
    assert files.read_json(folder / "config.json")["num_nextn_predict_layers"] == 1
    again, loaded = models.load(folder)
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    models.save_hf(again, loaded, tmp_path / "out")
    assert (tmp_path / "out" / files.SINGLE).read_bytes() == (folder / files.SINGLE).read_bytes()


def test_a_model_without_the_module_that_its_config_names(saved, tmp_path):
    """As transformers saves one: the field is there, the tensors are not."""
    _, params, folder = saved
    wanted = {name: leaf for name, leaf in params.items() if name != "mtp"}
    without, loaded = models.load(folder, mtp=False)
    assert not without.config.mtp
    jax.tree.map(np.testing.assert_array_equal, loaded, wanted)
    rewrite(folder, lambda old: {n: a for n, a in old.items() if ".layers.3." not in n})
    again, loaded = models.load(folder)
    assert again == without
    jax.tree.map(np.testing.assert_array_equal, loaded, wanted)
    models.save_hf(again, loaded, tmp_path / "out")
    assert files.read_json(tmp_path / "out" / "config.json")["num_nextn_predict_layers"] == 0


def test_half_a_module_or_another_embedding_is_refused(saved):
    _, _, folder = saved
    norm, embedding = "model.layers.3.enorm.weight", "model.layers.3.embed_tokens.weight"
    rewrite(folder, lambda old: {**old, embedding: old[embedding] + 1})
    with pytest.raises(UserError, match=r"layers.3.embed_tokens.*differs.*mtp=False"):
        models.load(folder)
    rewrite(folder, lambda old: {n: a for n, a in old.items() if n not in (norm, embedding)})
    with pytest.raises(UserError, match=f"missing: {norm}"):
        models.load(folder)


def test_the_bias_stays_in_float32(saved, tmp_path):
    module, params, _ = saved
    models.save_hf(module, params, tmp_path / "narrow", dtype="bfloat16")
    for dtype in (None, "bfloat16"):
        _, loaded = models.load(tmp_path / "narrow", dtype=dtype)
        bias, router = (loaded["mtp"]["block"]["moe"][n] for n in ("router_bias", "router"))
        assert (bias.dtype, router.dtype) == (jnp.float32, jnp.bfloat16)
        np.testing.assert_array_equal(bias, params["mtp"]["block"]["moe"]["router_bias"])


def test_every_parameter_has_logical_axes():
    _, params = make_tiny(**CHANGES)
    axes = logical_axes(params)
    jax.tree.map(operator.length_hint, axes, is_leaf=lambda x: isinstance(x, tuple))
    jax.tree.map(lambda leaf, names: None if leaf.ndim == len(names) else 1 / 0, params, axes)
