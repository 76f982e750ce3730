"""The one shape of a phase's updates: row length, rows, micro-batches, who shares prompts."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from test_performance import make_graded

from r1jax import mesh as mesh_lib
from r1jax.config import from_config_dict
from r1jax.errors import UserError
from r1jax.training import batches
from r1jax.training.setup import make_setup
from r1jax.training.sft import corpus_batch


def shape_of(prompt, response, *, backend="xla", updates=1, **batch):
    config = from_config_dict(
        {
            "data": {"max_prompt_tokens": prompt},
            "sampling": {"max_tokens": response},
            "rl": {"prompts_per_step": 4, "samples_per_prompt": 16, "updates_per_step": updates},
            "batch": batch,
        }
    )
    return batches.rl_batch_shape(config, mesh_lib.make_mesh(), backend)


def test_long_prompts_are_shared_in_rows_of_a_whole_group():
    shape = shape_of(512, 64, lanes=1, tokens_per_device=4096)
    assert shape.share_prompts
    assert shape.row_length == 1536  # 512 + 16 x 64
    assert shape.rows_per_micro == 2
    assert shape.rows >= 64 // (1536 // 576)


@pytest.mark.parametrize(("prompt", "response"), [(63, 64), (64, 537), (16, 16)])
def test_prompts_that_are_short_or_save_less_than_a_tenth_are_repeated(prompt, response):
    shape = shape_of(prompt, response)
    assert not shape.share_prompts
    assert shape.row_length == -(-(prompt + response) // 8) * 8
    assert shape.block == {128: 128, 608: 128, 32: 32}[shape.row_length]


def test_what_sharing_saves_depends_on_how_many_of_a_group_an_update_has():
    assert shape_of(64, 128, updates=8).share_prompts
    assert not shape_of(64, 128, updates=16).share_prompts


@pytest.mark.parametrize(
    ("prompt", "response", "row_length"),
    [(64, 64, 1088), (100, 85, 1472), (64, 128, 1024), (64, 536, 1024), (200, 1300, 1504)],
)
def test_rows_hold_a_group_that_fits_in_a_lane_and_else_pass_the_head_in_one_piece(
    prompt, response, row_length
):
    shape = shape_of(prompt, response)
    assert shape.share_prompts
    assert shape.row_length == row_length
    assert shape.block == 64  # what attention visits at once
    assert shape.rows_per_micro == 1


@pytest.mark.parametrize(("prompt", "shares"), [(64, False), (128, True), (200, False)])
def test_elsewhere_prompts_are_shared_that_are_long_and_longer_than_responses(
    prompt, shares, monkeypatch
):
    mesh = mock.Mock(
        spec=jax.sharding.Mesh,
        size=1,
        shape=dict.fromkeys(mesh_lib.BATCH_AXES, 1),
        devices=np.array([mock.Mock(platform="tpu")]),
    )
    monkeypatch.setattr(mesh_lib, "make_mesh", lambda: mesh)
    response = 300 if prompt == 200 else 32
    shape = shape_of(prompt, response, tokens_per_device=512)
    assert shape.share_prompts == shares
    assert shape.row_length == (512 if shares else -(-(prompt + response) // 8) * 8)


def test_sharing_is_as_asked_where_the_backend_can():
    assert not shape_of(512, 64, share_prompts=False).share_prompts
    assert shape_of(16, 64, share_prompts=True).share_prompts
    assert not shape_of(512, 64, backend="splash_interpret").share_prompts
    with pytest.raises(UserError, match="share_prompts: attention 'splash_interpret' cannot"):
        shape_of(512, 64, backend="splash_interpret", share_prompts=True)


@pytest.mark.parametrize(("backend", "needs"), [("splash", "a TPU"), ("cudnn", "an NVIDIA GPU")])
def test_a_backend_of_other_devices_is_refused_before_anything_runs(backend, needs):
    with pytest.raises(UserError, match=f"model.attention='{backend}': needs {needs}, not '"):
        shape_of(512, 64, backend=backend)


def test_a_text_of_the_corpus_that_is_longer_than_a_row_is_said():
    config = from_config_dict({"data": {"task": "countdown"}, "sampling": {"max_tokens": 20}})
    shape = batches.make_batch_shape(config.batch, mesh_lib.make_mesh(), sequences=8, longest=36)
    with pytest.raises(UserError, match=r"a text of \d+ tokens, and rows have 40"):
        corpus_batch(make_setup(config), shape, 0)


def test_a_row_is_never_shorter_than_a_sequence():
    assert shape_of(512, 64, tokens_per_device=100).row_length == 576
    with pytest.raises(UserError, match="row_length=500: a prompt and response can have 576"):
        shape_of(512, 64, row_length=500)


def test_micro_batches_default_to_what_suits_the_device():
    tokens = batches.TOKENS_PER_DEVICE[jax.default_backend()]
    alone = {"share_prompts": False}
    assert shape_of(64, 128, lanes=1, **alone).rows_per_micro == tokens // 192
    assert shape_of(64, 128, **alone).rows_per_micro == tokens // 2 // 192  # there are two lanes


def test_micro_batches_are_as_even_as_can_be():
    """64 rows, at most 24 of them at a time."""
    shape = shape_of(64, 128, lanes=1, tokens_per_device=24 * 192, share_prompts=False)
    assert (shape.rows_per_micro, shape.rows) == (22, 66)


@pytest.mark.parametrize("share_prompts", [False, True])
def test_tokens_of_right_answers_that_count_weigh_alike_and_one_together(share_prompts):
    shape = batches.BatchShape(16, 4, 2, share_prompts)
    correct = np.array([True, False, True, True])
    counts = np.array([True, True, False, True])
    graded = dataclasses.replace(make_graded(), correct=correct)  # of 1, 2, 4 and 3 tokens

    def weights(rows, **options):
        every = np.array(rows)
        return batches.pack_rows(shape, graded, every, np.zeros(4), counts, **options).batch

    assert weights([0, 1, 2, 3]).positive is None
    batch = weights([0, 1, 2, 3], likelihood=True)
    assert batch.positive.dtype == np.float32
    assert sorted(batch.positive[batch.positive != 0].tolist()) == [0.25] * 4
    assert (batch.positive[batch.prompt_ids == 0] != 0).sum() == 1
    assert not batch.positive[~batch.mask].any()
    assert not weights([1, 2], likelihood=True).positive.any()  # another update's share: none right
    assert weights([2, 3], likelihood=True).positive.max() == np.float32(1 / 3)
