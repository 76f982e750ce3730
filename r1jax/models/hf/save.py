"""A model as a Hugging Face folder for transformers and vLLM: all of it appears, or nothing."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from r1jax.errors import UserError
from r1jax.models import lora
from r1jax.models.hf import files, names, scored
from r1jax.models.hf.config import KEPT, write_config
from r1jax.models.hf.gather import Take, write_together
from r1jax.models.transformer import Transformer
from r1jax.types import Params

SHARD_BYTES = 5_000_000_000
# What a folder holds besides weights and config.json.
_COMPANIONS = ("generation_config.json", "tokenizer*", "special_tokens_map.json", "merges.txt")
_COMPANIONS += ("added_tokens.json", "vocab.*", "chat_template*", "*.model")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_hf(
    module: Transformer,
    params: Params,
    directory: str | pathlib.Path,
    *,
    tokenizer: Any = None,
    like: str | pathlib.Path | None = None,
    dtype: DTypeLike | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights, index, config, generation config and tokenizer into a new folder.

    tokenizer: a transformers tokenizer, saved by its own method.
    like: the folder the model came from; tokenizer, chat template and generation settings are
        copied from it, and the token ids that its config names.
    dtype: of the tensors; None = the parameters'.

    Where several processes hold the parameters, all call this and the first one writes.
    """
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise UserError(
            f"{type(tokenizer).__name__} has no form that transformers reads; leave tokenizer out"
        )
    source = None if like is None else pathlib.Path(like)
    params = jax.jit(lora.merge)(params) if lora.is_joined(params) else params
    pieces = _pieces(params)
    leaves = {
        names.path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def write(take: Take) -> None:
        target = new_folder(directory)
        settings = _settings(module, params, tokenizer, source, dtype)
        with appearing_whole(target) as draft:
            _write_weights(pieces, leaves, take, draft, dtype, shard_bytes)
            files.write_json(draft / "config.json", settings)
            _write_companions(draft, settings, tokenizer, source)

    write_together([(leaves[piece.path], piece.place) for piece in pieces.values()], write)


def new_folder(directory: str | pathlib.Path) -> pathlib.Path:
    """A place that nothing is at yet."""
    target = pathlib.Path(directory).expanduser()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder")
    return target


@contextlib.contextmanager
def appearing_whole(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes `target` at the end, or is gone after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield draft
        _sync(draft)
        draft.chmod(0o755)  # a temporary folder is its owner's alone
        draft.rename(target)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise UserError(f"{target}: nothing was saved: {what}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _settings(
    module: Transformer,
    params: Params,
    tokenizer: Any,
    source: pathlib.Path | None,
    dtype: DTypeLike | None,
) -> dict[str, Any]:
    """`config.json`: ours, and the token ids of the tokenizer or of the folder it came from."""
    wide = params["embedding"].dtype if dtype is None else jnp.dtype(dtype)
    settings = scored.with_head(write_config(module.config, dtype=wide.name), params)
    if source is not None:
        before = files.read_json(source / "config.json")
        settings |= {name: before[name] for name in sorted(KEPT & set(before))}
    ids = {name: getattr(tokenizer, name, None) for name in _TOKEN_IDS}
    # A list of ends in the source's config says more than a tokenizer's one end.
    return {**{name: value for name, value in ids.items() if value is not None}, **settings}


def _pieces(params: Params) -> dict[str, names.Piece]:
    """Every tensor of the files, by name, in their order."""
    pieces = names.pieces(params)
    # What MTP shares is repeated in DeepSeek's files; a tied head is not in anybody's.
    copies = {copy: of for copy, of in names.copies(params).items() if copy != names.HEAD}
    return pieces | {copy: pieces[original] for copy, original in copies.items()}


def _write_weights(
    pieces: Mapping[str, names.Piece],
    leaves: Mapping[str, Any],
    take: Take,
    folder: pathlib.Path,
    dtype: DTypeLike | None,
    shard_bytes: int,
) -> None:
    def dtype_of(name: str) -> np.dtype:
        path = pieces[name].path
        return np.dtype(leaves[path].dtype if dtype is None else names.stored_dtype(path, dtype))

    def fetch(name: str) -> np.ndarray:
        """One tensor of one layer at a time comes to the host."""
        piece = pieces[name]
        parameter = take(leaves[piece.path], piece.place)
        return piece.source.to_tensor(parameter).astype(dtype_of(name))

    tensors = {name: (piece.shape, dtype_of(name)) for name, piece in pieces.items()}
    sizes = {name: int(np.prod(shape)) * kind.itemsize for name, (shape, kind) in tensors.items()}
    groups = list(_groups(sizes, shard_bytes))
    if len(groups) == 1:
        files.write_file(folder / files.SINGLE, tensors, fetch)
        return
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        files.write_file(folder / file, {name: tensors[name] for name in group}, fetch)
        weight_map |= dict.fromkeys(group, file)
    total = {"total_size": sum(sizes.values())}
    files.write_json(folder / files.INDEX, {"metadata": total, "weight_map": weight_map})


def _groups(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Names in order, each group of at most `most` bytes unless one alone is larger."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group


def _write_companions(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    tokenizer: Any,
    source: pathlib.Path | None,
) -> None:
    ids = {name: settings[name] for name in _TOKEN_IDS if settings.get(name) is not None}
    files.write_json(folder / "generation_config.json", ids)
    if source is not None:
        for path in companions(source):
            shutil.copyfile(path, folder / path.name)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def companions(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a checkpoint besides weights and config.json."""
    found = {path for pattern in _COMPANIONS for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def _sync(folder: pathlib.Path) -> None:
    """The rename must not reach the disk before what it names."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
