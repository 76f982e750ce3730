"""Best-fit packing of sequences into rows, on the host."""

import bisect
import dataclasses
from collections.abc import Sequence as SequenceOf

import numpy as np

from r1jax.types import PackedBatch

_RESPONSE_FIELDS = ("mask", "advantages", "logp_behavior")


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One prompt and response (or one document) on its way into a packed row.

    `mask`, `advantages` and `logp_behavior` belong to the last `len(...)` tokens: the response.
    With no mask every token after the first counts.
    """

    tokens: np.ndarray
    mask: np.ndarray | None = None
    advantages: np.ndarray | None = None
    logp_behavior: np.ndarray | None = None
    prompt_id: int = 0


def best_fit(lengths: SequenceOf[int], row_length: int) -> list[list[int]]:
    """Indices per row: longest first, each into the fullest row it still fits in."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (space left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > row_length:
            raise ValueError(
                f"sequence {index} needs {length} places, a row has {row_length}: "
                "raise row_length or drop the sequence"
            )
        spot = bisect.bisect_left(room, (length, -1))
        if spot == len(room):
            rows.append([index])
            left, row = row_length - length, len(rows) - 1
        else:
            space, row = room.pop(spot)
            rows[row].append(index)
            left = space - length
        bisect.insort(room, (left, row))
    return rows


def pack(
    sequences: SequenceOf[Sequence | np.ndarray | SequenceOf[int]],
    *,
    row_length: int,
    rows: int | None = None,
) -> PackedBatch:
    """Lay sequences into rows of `row_length` places; `rows` fixes their number (padding added).

    A sequence of n tokens takes n - 1 places: place t reads token t and predicts token t + 1.
    Bare token arrays count as documents: every prediction is in the loss.
    """
    items = [s if isinstance(s, Sequence) else Sequence(np.asarray(s)) for s in sequences]
    layout = best_fit([len(s.tokens) - 1 for s in items], row_length)
    if rows is not None and len(layout) > rows:
        raise ValueError(
            f"{len(items)} sequences need {len(layout)} rows of {row_length}, {rows} allowed"
        )
    shape = (len(layout) if rows is None else rows, row_length)
    batch = PackedBatch(
        **{
            name: np.zeros(shape, np.int32)
            for name in ("tokens", "targets", "positions", "segment_ids", "prompt_ids")
        },
        mask=np.zeros(shape, bool),
        advantages=np.zeros(shape, np.float32),
        logp_behavior=np.zeros(shape, np.float32),
        logp_ref=np.zeros(shape, np.float32),
    )
    for row, members in enumerate(layout):
        start = 0
        for segment, index in enumerate(members, 1):
            _require_places(index, items[index])
            start = _lay(batch, row, start, segment, items[index])
    return batch


def _require_places(index: int, sequence: Sequence) -> None:
    places = len(sequence.tokens) - 1
    for name in _RESPONSE_FIELDS:
        values = getattr(sequence, name)
        if values is not None and len(values) > places:
            raise ValueError(f"sequence {index} has {len(values)} {name} for {places} places")


def _lay(batch: PackedBatch, row: int, start: int, segment: int, sequence: Sequence) -> int:
    places = len(sequence.tokens) - 1
    end = start + places
    batch.tokens[row, start:end] = sequence.tokens[:-1]
    batch.targets[row, start:end] = sequence.tokens[1:]
    batch.positions[row, start:end] = np.arange(places)
    batch.segment_ids[row, start:end] = segment
    batch.prompt_ids[row, start:end] = sequence.prompt_id
    if sequence.mask is None:
        batch.mask[row, start:end] = True
    for name in _RESPONSE_FIELDS:
        values = getattr(sequence, name)
        if values is not None and len(values):
            getattr(batch, name)[row, end - len(values) : end] = values
    return end


def split_micro(batch: PackedBatch, rows_per_micro: int) -> tuple[PackedBatch, int]:
    """([M, rows, T] batch, how many micro-batches hold any token).

    Rows are filled from the first, so padding gathers in the last micro-batches, which the update
    then skips.
    """
    rows, length = batch.tokens.shape
    if rows % rows_per_micro:
        raise ValueError(f"{rows} rows do not split into micro-batches of {rows_per_micro}")
    shape = (rows // rows_per_micro, rows_per_micro, length)
    fields = {f.name: getattr(batch, f.name).reshape(shape) for f in dataclasses.fields(batch)}
    used = int(np.sum(np.any(fields["segment_ids"] > 0, axis=(1, 2))))
    return PackedBatch(**fields), used
