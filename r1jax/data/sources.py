"""Questions from files: JSON lines, Parquet, ArrayRecord, TFDS, Hugging Face datasets.

    records of a file ──▶ checked items ──▶ train and held-out ──▶ endless, shuffled streams

An item is a mapping with `question`, a `task` (or `domain`) that says who judges it, `answer` where
that is done by one, and every other field of its record. What is wrong with a record is said with
its place in its file.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.data.tasks.base import SPLITS, Item
from r1jax.errors import UserError

DEFAULT_TASK = "math"
# Where the record lies, for a person: "train.jsonl:17". Then the record.
Record = tuple[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Questions:
    """Checked items; `places` says of each where it came from."""

    items: tuple[Item, ...]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, chosen: Sequence[int]) -> "Questions":
        return Questions(
            tuple(self.items[i] for i in chosen), tuple(self.places[i] for i in chosen)
        )

    @property
    def fingerprint(self) -> int:
        """One number over all items in order: a run goes on only with what it started with."""
        total = 0
        for item in self.items:
            total = zlib.crc32(json.dumps(item, sort_keys=True, default=repr).encode(), total)
        return total


def read_questions(source: str) -> Questions:
    """Every question of `source`, checked.

    FILE.jsonl, FILE.parquet, FILE.arrayrecord (records of JSON); FOLDER[:SPLIT] as TFDS or the
    `datasets` library write it; OWNER/NAME[:SPLIT] of the hub. The split is `train` if not said.
    """
    places, items = [], []
    for place, record in _records(source):
        items.append(_item(place, record))
        places.append(place)
    if not items:
        raise UserError(f"{source}: holds no questions")
    return Questions(tuple(items), tuple(places))


def hold_out(questions: Questions, share: float) -> tuple[Questions, Questions]:
    """(to train on, held out): `share` of the different questions, at least one.

    Chosen by a hash of the question alone: the same for every seed and order of the file, and a
    question that is there twice never lies on both sides.
    """
    hashes = {item["question"]: _hash(item["question"]) for item in questions.items}
    count = max(1, round(share * len(hashes)))
    chosen = set(sorted(hashes, key=hashes.__getitem__)[:count])
    held = [i for i, item in enumerate(questions.items) if item["question"] in chosen]
    rest = [i for i, item in enumerate(questions.items) if item["question"] not in chosen]
    if not rest:
        raise UserError(
            f"{questions.places[0]}: with data.held_out={share} nothing is left to train on; "
            "lower it, or name data.eval"
        )
    return questions.take(rest), questions.take(held)


def item_at(questions: Questions, *, seed: int, split: str, index: int) -> Item:
    """The question at one place of a split's endless stream, a pure function of its arguments.

    Training goes through all questions once an epoch, each epoch in an order of its own; the
    held-out ones stay in theirs.
    """
    return questions.items[place_in_epoch(len(questions), seed=seed, split=split, index=index)]


def place_in_epoch(count: int, *, seed: int, split: str, index: int, part: int = 0) -> int:
    """Which of `count` questions comes at a place of their stream. `part`: of a mixture."""
    epoch, place = divmod(index, count)
    return place if split == "eval" else int(_order(count, seed, SPLITS[split], epoch, part)[place])


# The loop reads one epoch at a time of each part, and at its end two.
@functools.lru_cache(maxsize=64)
def _order(count: int, seed: int, split: int, epoch: int, part: int) -> np.ndarray:
    return np.random.default_rng([seed, split, epoch, part]).permutation(count)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _item(place: str, record: Any) -> Item:
    if not isinstance(record, Mapping):
        raise UserError(f"{place}: is not a JSON object but {type(record).__name__}")
    item = {str(name): _plain(value) for name, value in record.items()}
    if not _text(place, item, "task") and not _text(place, item, "domain"):
        item["task"] = DEFAULT_TASK
    if "messages" in item:
        _check_messages(place, item["messages"])
        item.setdefault("question", item["messages"][-1]["content"])
    question = _text(place, item, "question")
    if not question.strip():
        raise UserError(
            f'{place}: has no "question"; its fields: {", ".join(map(str, record)) or "none"}'
        )
    answer = item.get("answer")
    if type(answer) is int:
        item["answer"] = str(answer)
    elif not _text(place, item, "answer").strip() and item.get("task") == DEFAULT_TASK:
        raise UserError(f'{place}: has no "answer", and a {DEFAULT_TASK} question is judged by one')
    return item


def _text(place: str, item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f'{place}: "{name}" is of type {type(value).__name__}, text is wanted')
    return value


def _check_messages(place: str, messages: Any) -> None:
    good = isinstance(messages, list) and all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    )
    if not good or not messages or messages[-1]["role"] != "user":
        raise UserError(
            f'{place}: "messages" must be a list of {{"role", "content"}} that ends with the '
            "user's"
        )


def _plain(value: Any) -> Any:
    """What numpy, Arrow and TFDS make of text, numbers and lists, as JSON has them."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _records(source: str) -> Iterator[Record]:
    path, _, split = source.partition(":")
    if pathlib.Path(source).is_file():
        path, split = source, ""
    file = pathlib.Path(path).expanduser()
    if file.is_file():
        if file.suffix not in _READERS:
            raise UserError(f"{file}: not one of {', '.join(_READERS)}")
        return _READERS[file.suffix](file)
    split = split or "train"
    if (file / "features.json").is_file() or any(file.glob("*/features.json")):
        return _read_tfds(file, split)
    if file.is_dir() or path.count("/") == 1:
        return _read_datasets(path, file, split)
    raise UserError(f"{path}: no such file of questions, folder of a data set, or hub id")


def _need(module: str, package: str, source: Any) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{source}: reading it needs {package}: pip install {package}") from error


@contextlib.contextmanager
def _readable(source: Any) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # Three libraries, each with errors of its own, and Arrow's and the hub's below them.
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise UserError(
            f"{source}: cannot be read ({type(error).__name__}: {lines[0][:200]})"
        ) from error


def _read_json_lines(file: pathlib.Path) -> Iterator[Record]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{file}:{number}"
                yield place, _parse(place, line)


def _parse(place: str, text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: is not UTF-8 ({error.reason}, byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is not JSON ({error})") from error


def _read_parquet(file: pathlib.Path) -> Iterator[Record]:
    parquet = _need("pyarrow.parquet", "pyarrow", file)
    number = 0
    with _readable(file), parquet.ParquetFile(file) as table:
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                number += 1
                # A column that other records have and this one has not comes as None.
                yield (
                    f"{file}: record {number}",
                    {k: v for k, v in record.items() if v is not None},
                )


def _read_array_record(file: pathlib.Path) -> Iterator[Record]:
    array_record = _need("array_record.python.array_record_data_source", "array_record", file)
    with _readable(file):
        records = array_record.ArrayRecordDataSource(str(file))
    for index in range(len(records)):
        place = f"{file}: record {index + 1}"
        yield place, _parse(place, records[index])


def _read_tfds(folder: pathlib.Path, split: str) -> Iterator[Record]:
    """Read by place, through ArrayRecord: TensorFlow itself is not needed."""
    tfds = _need("tensorflow_datasets", "tensorflow-datasets", folder)
    with _readable(folder):
        if (folder / "features.json").is_file():
            builder = tfds.builder_from_directory(folder)
        else:
            builder = tfds.builder_from_directories(
                [found.parent for found in folder.glob("*/features.json")]
            )
        records = builder.as_data_source(split=split)
    for index in range(len(records)):
        yield f"{folder}:{split} record {index + 1}", records[index]


def _read_datasets(name: str, folder: pathlib.Path, split: str) -> Iterator[Record]:
    datasets = _need("datasets", "datasets", name)
    with _readable(name):
        if folder.is_dir():
            records = datasets.load_from_disk(str(folder))
            if isinstance(records, Mapping):
                records = records[split]
        else:
            records = datasets.load_dataset(name, split=split)
    for index, record in enumerate(records):
        yield (
            f"{name}:{split} record {index + 1}",
            {k: v for k, v in record.items() if v is not None},
        )


_READERS: Mapping[str, Callable[[pathlib.Path], Iterator[Record]]] = {
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
    ".arrayrecord": _read_array_record,
    ".array_record": _read_array_record,
}
