"""Safetensors files: headers checked before a byte is believed, tensors as memory maps.

Eight bytes of header length, a JSON header (name -> dtype, shape, [start, end)), then the bytes.
A memory map lets a device's shard be cut from a tensor without reading the rest of it.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from r1jax.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. `array` maps it; let go of the array and the map is gone."""

    path: pathlib.Path
    code: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def dtype(self) -> np.dtype:
        if self.code not in _DTYPES:
            raise UserError(
                f"{self.path}: tensors of type {self.code} are quantised or not numbers of a "
                f"model; supported: {', '.join(_DTYPES)}"
            )
        return _DTYPES[self.code]

    def array(self) -> np.ndarray:
        return np.memmap(self.path, self.dtype, "r", offset=self.start, shape=self.shape)


def open_folder(folder: pathlib.Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by name: one file, or the files an index names."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return read_header(folder / SINGLE)
        raise UserError(f"{folder}: {_why_no_weights(folder)}")
    places = read_json(index).get("weight_map")
    if not isinstance(places, Mapping):
        raise UserError(f"{index}: has no weight_map; fetch the file again")
    absent = sorted(name for name in set(places.values()) if not (folder / name).is_file())
    if absent:
        raise UserError(f"{folder}: the index names files that are not there: {listed(absent)}")
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        found |= read_header(folder / name)
    unheld = sorted(set(places) - set(found))
    if unheld:
        raise UserError(f"{index}: names tensors that its files do not hold: {listed(unheld)}")
    return found


def _why_no_weights(folder: pathlib.Path) -> str:
    if any(folder.glob("*.safetensors")):
        return f"has safetensors files, but neither {SINGLE} nor {INDEX} to say what is in which"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return (
            "holds pickled weights only, and a pickle can run code; save it once with transformers "
            "(model.save_pretrained writes safetensors)"
        )
    return f"no weights here; wanted: {SINGLE}, or {INDEX} with the files it names"


def read_header(path: pathlib.Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise _broken(path, f"{size} bytes cannot hold a header of {length}")
        text = file.read(length)
    try:
        header = json.loads(text)
        tensors = {
            name: _tensor(path, entry, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, "its header is not one of safetensors") from error
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
        if tensor.start != end:
            raise _broken(path, f"the bytes of {name} do not start where others end")
        end += tensor.size
    if end != size:
        raise _broken(path, f"{size} bytes, its header says {end}")
    return tensors


def _tensor(path: pathlib.Path, entry: Mapping[str, Any], base: int) -> Tensor:
    start, end = entry["data_offsets"]
    tensor = Tensor(path, entry["dtype"], tuple(entry["shape"]), base + start, end - start)
    itemsize = _DTYPES[tensor.code].itemsize if tensor.code in _DTYPES else None
    if itemsize is not None and math.prod(tensor.shape) * itemsize != tensor.size:
        raise ValueError
    return tensor


def _broken(path: pathlib.Path, why: str) -> UserError:
    return UserError(f"{path}: truncated or corrupt ({why}); fetch or write the file again")


def write_file(
    path: pathlib.Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    fetch: Callable[[str], np.ndarray],
) -> None:
    """Write tensors one after another; `fetch` is asked for each when its turn comes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers wants to be told
    end = 0
    for name, (shape, dtype) in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in tensors.items():
            array = np.ascontiguousarray(fetch(name))
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name}: {array.dtype}{array.shape}, said {dtype}{shape}")
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object")
    return found


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def listed(names: list[str], at_most: int = 8) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
