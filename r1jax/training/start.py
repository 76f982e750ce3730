"""What a run starts from, but for the weights: a model's shape, its tokenizer, where it stops.

Without `init_from` that is the config's model and the symbols of its task. With it, what a Hugging
Face folder or an earlier run says. A workdir keeps a copy in `start/`, so that its policy can be
read, measured and exported wherever the checkpoint went.
"""

import dataclasses
import hashlib
import pathlib
import shutil
from typing import Any

from r1jax import config as config_lib
from r1jax.config import RUNTIME_FIELDS, Config
from r1jax.data.hf_tokenizer import load_tokenizer
from r1jax.data.tasks import make_task
from r1jax.data.tokenizers import Tokenizer
from r1jax.errors import UserError
from r1jax.models import ModelConfig
from r1jax.models.hf import files
from r1jax.models.hf.config import read_config
from r1jax.models.hf.hub import find_folder
from r1jax.models.hf.save import companions

FOLDER = "start"
_RUN = "run.json"  # the config of an earlier run whose model has no Hugging Face form
_BLOCK, _BLOCKS = 4096, 64  # bytes, and how many of a file are looked at


@dataclasses.dataclass(frozen=True)
class Start:
    model: ModelConfig
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    folder: pathlib.Path | None  # the Hugging Face files beside the weights; None = there are none


def read_start(config: Config, workdir: pathlib.Path | None = None) -> Start:
    """The start of a run; from its workdir's own copy where there is one."""
    kept = None if workdir is None else workdir / FOLDER
    if kept is not None and kept.is_dir():
        start = _read(kept, config)
    elif config.init_from:
        start = _read(find_folder(config.init_from), config)
    else:
        start = _of_task(config)
    symbols = len(start.tokenizer)
    vocab_size = start.model.vocab_size or symbols
    if vocab_size < symbols:
        raise UserError(
            f"config.model.vocab_size={vocab_size}: the tokenizer has {symbols} symbols; use 0 for "
            "just as many"
        )
    return dataclasses.replace(start, model=dataclasses.replace(start.model, vocab_size=vocab_size))


def is_run(folder: pathlib.Path) -> bool:
    """A workdir of `r1jax train` or `r1jax convert`; a Hugging Face folder has no checkpoints."""
    return (folder / "checkpoints").is_dir() and (folder / "config.json").is_file()


def contents(source: str) -> dict[str, str]:
    """A digest of each file of a checkpoint, from its size and some of its blocks: as much as tells
    other weights or another tokenizer, in no time."""
    folder = find_folder(source)
    paths = (folder / "checkpoints").rglob("*") if is_run(folder) else folder.iterdir()
    return {
        f"{source}/{path.relative_to(folder)}": _digest(path)
        for path in sorted(paths)
        if path.is_file() and not path.name.startswith(".")
    }


def _digest(path: pathlib.Path) -> str:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with path.open("rb") as file:
        for place in range(0, size, max(_BLOCK, size // _BLOCKS)):
            file.seek(place)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def keep_start(config: Config, workdir: pathlib.Path) -> None:
    """Copy everything but weights into a new run's workdir: whole or not at all."""
    kept = workdir / FOLDER
    if not config.init_from or kept.is_dir():
        return
    source = find_folder(config.init_from)
    draft = workdir / f".{FOLDER}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    if is_run(source) and (source / FOLDER).is_dir():
        shutil.copytree(source / FOLDER, draft)
    else:
        draft.mkdir()
        if is_run(source):
            shutil.copyfile(source / "config.json", draft / _RUN)
        else:
            for path in (source / "config.json", *companions(source)):
                shutil.copyfile(path, draft / path.name)
    draft.rename(kept)


def _read(folder: pathlib.Path, config: Config) -> Start:
    if is_run(folder):
        inner = folder / FOLDER
        if inner.is_dir():
            return _read(inner, config)
        return _of_run(folder / "config.json", config)
    if (folder / _RUN).is_file():
        return _of_run(folder / _RUN, config)
    path = folder / "config.json"
    fields = files.read_json(path)
    tokenizer = load_tokenizer(folder)
    model = read_config(fields, where=str(path))
    return Start(
        model=_with_runtime(model, config),
        tokenizer=tokenizer,
        stop_ids=_stop_ids(folder, fields, tokenizer),
        folder=folder,
    )


def _of_task(config: Config) -> Start:
    tokenizer = make_task(config.data.task, config.data.size).tokenizer()
    return Start(config.model, tokenizer, (tokenizer.eos_token_id,), None)


def _of_run(path: pathlib.Path, config: Config) -> Start:
    start = _of_task(config_lib.from_config_dict(files.read_json(path)))
    return dataclasses.replace(start, model=_with_runtime(start.model, config))


def _with_runtime(model: ModelConfig, config: Config) -> ModelConfig:
    """The checkpoint's model, computed as this run's config says."""
    runtime = {name: getattr(config.model, name) for name in RUNTIME_FIELDS}
    return dataclasses.replace(model, **runtime)


def _stop_ids(
    folder: pathlib.Path, fields: dict[str, Any], tokenizer: Tokenizer
) -> tuple[int, ...]:
    """Every id that a checkpoint says ends a response; an instruct model has several."""
    path = folder / "generation_config.json"
    generation = files.read_json(path) if path.is_file() else {}
    found = [tokenizer.eos_token_id]
    for said in (generation.get("eos_token_id"), fields.get("eos_token_id")):
        found += said if isinstance(said, list) else [said]
    return tuple(dict.fromkeys(token for token in found if isinstance(token, int)))
