"""FP8 files with a scale per block are read as what they stand for, or refused."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import make_tiny

from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.errors import UserError
from r1jax.models.hf import files, fp8

BLOCK = (128, 128)
SETTINGS = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": list(BLOCK),
}
DOWN = "model.layers.1.mlp.down_proj.weight"


def quantized(array):
    """(codes, scales), block after block, as DeepSeek's files have them: 448 is e4m3's largest."""
    blocks = [-(-size // step) for size, step in zip(array.shape, BLOCK, strict=True)]
    codes, scales = np.zeros(array.shape, ml_dtypes.float8_e4m3fn), np.zeros(blocks, np.float32)
    for row, column in np.ndindex(*blocks):
        cut = tuple(slice(n * b, (n + 1) * b) for n, b in zip((row, column), BLOCK, strict=True))
        scales[row, column] = np.abs(array[cut]).max() / 448
        codes[cut] = (array[cut] / scales[row, column]).astype(codes.dtype)
    return codes, scales


def by_hand(codes, scales):
    out = np.zeros(codes.shape, np.float32)
    for row, column in np.ndindex(*codes.shape):
        scale = scales[row // BLOCK[0], column // BLOCK[1]]
        out[row, column] = np.float32(codes[row, column]) * scale
    return out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint whose matrices of the MLP are FP8; (300, 140) is no multiple of a block."""
    module, params = make_tiny(width=140, ffn=300, heads=4, head_dim=8)
    models.save_hf(module, params, tmp_path / "model")
    arrays = {n: np.array(t.array()) for n, t in files.open_folder(tmp_path / "model").items()}
    for name in [name for name in arrays if ".mlp." in name]:
        arrays[name], arrays[name + fp8.SCALE] = quantized(arrays[name])
    monkeypatch.setitem(files._CODES, np.dtype(ml_dtypes.float8_e4m3fn), fp8.CODE)
    write(tmp_path / "model", arrays)
    set_quantization(tmp_path / "model", SETTINGS)
    return tmp_path / "model", arrays


def write(folder, arrays):
    about = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    files.write_file(folder / files.SINGLE, about, arrays.__getitem__)


def set_quantization(folder, settings):
    fields = files.read_json(folder / "config.json") | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_weights_are_codes_times_the_scale_of_their_block(folder, fsdp):
    path, arrays = folder
    _, params = models.load(path, dtype="float32", mesh=mesh_lib.make_mesh(1, fsdp, 1))
    wanted = by_hand(arrays[DOWN], arrays[DOWN + fp8.SCALE])
    np.testing.assert_array_equal(params["layers"]["block"]["down"][1], wanted.T)
    assert np.unique(arrays[DOWN + fp8.SCALE]).size == 2 * 3


def test_the_default_is_bfloat16_rounded_once_and_exports_are_not_fp8(folder, tmp_path):
    path, arrays = folder
    module, params = models.load(path)
    found = params["layers"]["block"]["down"][1]
    wanted = by_hand(arrays[DOWN], arrays[DOWN + fp8.SCALE]).astype(jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wanted.T)
    models.save_hf(module, params, tmp_path / "out")
    assert "quantization_config" not in files.read_json(tmp_path / "out" / "config.json")
    _, again = models.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_scales_that_are_missing_or_of_another_shape_are_refused(folder):
    path, arrays = folder
    scale = arrays.pop(DOWN + fp8.SCALE)
    for broken in (arrays, {**arrays, DOWN + fp8.SCALE: scale[:1]}):
        write(path, broken)
        with pytest.raises(UserError, match=f"without _scale_inv.*{DOWN}"):
            models.load(path)


def test_fp8_that_the_config_does_not_name_is_refused(folder):
    path, _ = folder
    set_quantization(path, None)
    with pytest.raises(UserError, match="_scale_inv"):
        models.load(path)
