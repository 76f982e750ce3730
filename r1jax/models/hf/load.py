"""A checkpoint's tensors, straight into the arrays they will be trained in.

Each device's shard of each parameter is cut from the files by itself, so beside the
arrays themselves a host holds one shard at a time, whatever the model's size.
"""

import dataclasses
import functools
import gc
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from r1jax import mesh as mesh_lib
from r1jax.errors import UserError
from r1jax.models import heads
from r1jax.models.axes import logical_axes
from r1jax.models.config import ModelConfig
from r1jax.models.hf import files, fp8, names, scored
from r1jax.models.hf.config import read_config
from r1jax.models.hf.hub import find_folder
from r1jax.models.transformer import Transformer, init_params
from r1jax.types import Params

Tensors = Mapping[str, files.Tensor]
Index = tuple[slice, ...]


def load(
    source: str | pathlib.Path,
    *,
    dtype: DTypeLike | None = None,
    compute_dtype: DTypeLike | None = None,
    mesh: jax.sharding.Mesh | None = None,
    **changes: Any,
) -> tuple[Transformer, Params]:
    """(module, parameters) of a Hugging Face folder or hub id; of a reward model, with its head.

    dtype: of the parameters; None = as the files have them. Train from float32.
    compute_dtype: of activations; None = the parameters' (float32 for float16).
    mesh: parameters are split over it by `mesh.RULES`; None = whole, on the first device.
    changes: other fields of the `ModelConfig`, such as `remat="full"`.
    """
    folder = find_folder(source)
    path = folder / "config.json"
    fields, bias = scored.as_backbone(files.read_json(path), str(path))
    said = read_config(fields, where=str(path))
    config = dataclasses.replace(said, **changes)
    tensors = files.open_folder(folder)
    if fields.get("quantization_config"):
        block = fp8.block_of(fields["quantization_config"], str(path))
        tensors = fp8.dequantized(tensors, block)
    if said.mtp:
        tensors, config = _settle_mtp(tensors, config)
    shapes = jax.eval_shape(functools.partial(init_params, Transformer(config)), 0)
    if bias is not None:
        shapes = {**shapes, **heads.shapes(config.width, bias=bias)}
    _check_tensors(folder, tensors, names.pieces(shapes), names.copies(shapes))
    known = names.sources(shapes)
    sources = jax.tree_util.tree_map_with_path(lambda path, _: known[names.path_of(path)], shapes)
    if dtype is None:
        dtypes = jax.tree.map(functools.partial(_source_dtype, tensors), sources, shapes)
    else:
        dtypes = jax.tree_util.tree_map_with_path(
            lambda path, _: names.stored_dtype(names.path_of(path), dtype), shapes
        )
    assemble = functools.partial(_assemble, tensors)
    params = jax.tree.map(assemble, shapes, sources, dtypes, _shardings(mesh, shapes))
    if compute_dtype is None:
        compute_dtype = "bfloat16" if dtypes["embedding"] == jnp.bfloat16 else "float32"
    return Transformer(dataclasses.replace(config, dtype=jnp.dtype(compute_dtype).name)), params


def _shardings(mesh: jax.sharding.Mesh | None, shapes: Params) -> Any:
    if mesh is not None:
        return mesh_lib.param_shardings(mesh, shapes, logical_axes(shapes))
    whole = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: whole, shapes)


def _settle_mtp(tensors: Tensors, config: ModelConfig) -> tuple[Tensors, ModelConfig]:
    """Files without the MTP module that their config.json names are common, and `mtp=False` leaves
    out one that is there."""
    prefix = f"model.layers.{config.layers}."
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    if config.mtp and len(others) < len(tensors):
        return tensors, config
    return others, dataclasses.replace(config, mtp=False)


def _check_tensors(
    folder: pathlib.Path,
    tensors: Tensors,
    pieces: Mapping[str, names.Piece],
    copies: Mapping[str, str],
) -> None:
    """Every tensor that the config asks for is there, in its shape, and no other."""
    missing = [name for name in pieces if name not in tensors]
    extra = [name for name in tensors if name not in pieces and not _is_buffer(name)]
    for copy, original in copies.items():
        if copy in extra and original in tensors:
            # Some files repeat what is shared. One of another value would mean that it is not.
            if not _same_bytes(tensors[copy], tensors[original]):
                shared, cure = "tie_word_embeddings", "set it to false"
                if copy != names.HEAD:
                    shared, cure = "num_nextn_predict_layers", "load with mtp=False"
                raise UserError(
                    f"{folder}: config.json says {shared}, but {copy} differs from {original}: "
                    + cure
                )
            extra.remove(copy)
    if missing or extra:
        parts = [("missing", missing), ("not part of this model", extra)]
        said = "; ".join(f"{what}: {files.listed(which)}" for what, which in parts if which)
        raise UserError(f"{folder}: tensors do not match config.json; {said}")
    wrong = [
        f"{name} {list(tensors[name].shape)} instead of {list(piece.shape)}"
        for name, piece in pieces.items()
        if tensors[name].shape != piece.shape
    ]
    if wrong:
        raise UserError(f"{folder}: shapes do not match config.json: {files.listed(wrong)}")


def _is_buffer(name: str) -> bool:
    """Old exports wrote RoPE's frequencies down; they follow from the config."""
    return name.endswith("rotary_emb.inv_freq")


def _same_bytes(left: files.Tensor, right: files.Tensor) -> bool:
    if left.shape != right.shape or left.code != right.code:
        return False
    rows = zip(left.array(), right.array(), strict=True)
    return all(np.array_equal(one, other) for one, other in rows)


def _source_dtype(tensors: Tensors, source: names.Source, leaf: Any) -> np.dtype:
    stack = [tensors[source.tensor_name(place)] for place in names.places(source, leaf.shape)]
    found = {tensor.dtype for tensor in stack}
    if len(found) > 1:
        kinds = ", ".join(sorted(str(dtype) for dtype in found))
        raise UserError(
            f"{stack[0].path.parent}: {source.name} is of {kinds} in different layers; "
            "give load a dtype"
        )
    return found.pop()


def _assemble(
    tensors: Tensors, leaf: Any, source: names.Source, dtype: np.dtype, sharding: Sharding
) -> jax.Array:
    """One parameter, shard after shard; replicas of a shard are read once."""
    devices_of: dict[tuple[tuple[int, int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        ranges = zip(index or (), leaf.shape, strict=True)
        key = tuple(cut.indices(size) for cut, size in ranges)
        devices_of.setdefault(key, []).append(device)
    shards = []
    for key, devices in devices_of.items():
        shard = _read_shard(tensors, source, leaf.shape, key, dtype)
        copies = [jax.device_put(shard, device) for device in devices]
        shards += jax.block_until_ready(copies)
        del shard
        gc.collect(0)  # only here does jax let go of the host's copies that devices have taken
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)


def _read_shard(
    tensors: Tensors,
    source: names.Source,
    shape: tuple[int, ...],
    key: tuple[tuple[int, int, int], ...],
    dtype: np.dtype,
) -> np.ndarray:
    spans = [range(*span) for span in key]
    cut = tuple(slice(*span) for span in key[source.stacked :])
    shard = np.empty([len(span) for span in spans], dtype)
    for here in np.ndindex(*map(len, spans[: source.stacked])):
        place = tuple(span[i] for span, i in zip(spans, here, strict=False))
        tensor = tensors[source.tensor_name(place)].array()
        shard[here] = source.to_parameter(tensor, shape)[cut]
    return shard
