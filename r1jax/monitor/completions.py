"""The completions that a run keeps to read: JSON lines, or a file of columns for each step.

    completions.jsonl                              a line for each, appended
    completions/rl_00000010.parquet|.arrayrecord   those of one step, whole or not there at all

A step has one file, so a step that is run again writes over its own and nothing comes twice. What
is read back is the same for all three, and a run may change from one to another on the way.
"""

import contextlib
import importlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r1jax.errors import UserError
from r1jax.monitor.records import json_lines

Record = dict[str, Any]

LINES = "completions.jsonl"
FOLDER = "completions"
# format -> the module that it needs and the package that holds it
NEEDS: Mapping[str, tuple[str, str]] = {
    "jsonl": ("json", ""),
    "parquet": ("pyarrow.parquet", "pyarrow"),
    "arrayrecord": ("array_record.python.array_record_module", "array_record"),
}
FORMATS = tuple(NEEDS)
# Columns of a Parquet file, with the names of pyarrow's types; what a record lacks is null there.
COLUMNS = {
    **dict.fromkeys(("phase", "prompt", "completion", "task", "answer", "reference"), "string"),
    **dict.fromkeys(("step", "prompt_id", "sample", "length", "policy"), "int64"),
    **dict.fromkeys(("correct", "valid", "finished", "reasoned"), "bool_"),
    "reward": "float64",
}


def require_format(kind: str) -> None:
    """A `UserError` at the start of a run, not at the first step that keeps completions."""
    _need(kind, f"config.logging.completions_format={kind}")


def write(
    workdir: pathlib.Path, phase: str, step: int, records: Sequence[Record], kind: str
) -> None:
    if kind == "jsonl":
        with (workdir / LINES).open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        return
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{phase}_{step:08d}.{kind}"
    draft = path.with_name(f".{path.name}.draft")
    try:
        WRITERS[kind](draft, records)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def forget_files(workdir: pathlib.Path, phase: str, step: int) -> None:
    """Remove the files of steps from this one on, which the resumed run will write again."""
    for path in _files(workdir):
        of_phase, of_step = _name(path)
        if of_phase == phase and of_step >= step:
            path.unlink()


def read(workdir: pathlib.Path, problems: list[str]) -> Iterator[Record]:
    """Every record, lines first. What cannot be read becomes a line of `problems`."""
    if (workdir / LINES).is_file():
        yield from json_lines(workdir / LINES, problems)
    for path in _files(workdir):
        try:
            yield from READERS[path.suffix[1:]](path)
        except UserError as error:
            problems.append(str(error))
            return
        except Exception as error:  # noqa: BLE001 a damaged file, in the words of two C++ libraries
            problems.append(f"{path.name} could not be read ({type(error).__name__})")


def _files(workdir: pathlib.Path) -> list[pathlib.Path]:
    found = (p for p in (workdir / FOLDER).glob("*_*.*") if p.suffix[1:] in WRITERS)
    return sorted((path for path in found if _name(path)[1] >= 0), key=_name)


def _name(path: pathlib.Path) -> tuple[str, int]:
    """(phase, step) of a file; -1 where it is none of ours."""
    phase, _, step = path.stem.rpartition("_")
    return phase, int(step) if step.isdecimal() else -1


def _need(kind: str, what: str) -> Any:
    module, package = NEEDS[kind]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} needs {package}: pip install 'r1jax[data]'") from error


def _write_parquet(path: pathlib.Path, records: Sequence[Record]) -> None:
    parquet = _need("parquet", str(path))
    arrow = importlib.import_module("pyarrow")
    fields = [(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()]
    schema = arrow.schema([*fields, ("parts", arrow.map_(arrow.string(), arrow.float64()))])
    rows = [{name: _utf8(value) for name, value in record.items()} for record in records]
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path)


def _utf8(value: Any) -> Any:
    """Half of a surrogate pair is no text for Arrow."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _read_parquet(path: pathlib.Path) -> Iterator[Record]:
    table = _need("parquet", str(path)).read_table(path)
    yield from table.to_pylist(maps_as_pydicts="strict")


def _write_array_record(path: pathlib.Path, records: Sequence[Record]) -> None:
    with contextlib.closing(
        _need("arrayrecord", str(path)).ArrayRecordWriter(str(path), "group_size:1")
    ) as writer:
        for record in records:
            writer.write(json.dumps(record).encode())


def _read_array_record(path: pathlib.Path) -> Iterator[Record]:
    with contextlib.closing(_need("arrayrecord", str(path)).ArrayRecordReader(str(path))) as file:
        for line in file.read_all():
            yield json.loads(line)


WRITERS = {"parquet": _write_parquet, "arrayrecord": _write_array_record}
READERS = {"parquet": _read_parquet, "arrayrecord": _read_array_record}
