"""Best-fit packing of sequences into rows, on the host."""

import bisect
import dataclasses
from collections.abc import Sequence as SequenceOf
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.types import PackedBatch, as_token_ids

_RESPONSE_FIELDS = ("mask", "advantages", "logp_behavior", "kept", "positive")


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One prompt and response (or one document) on its way into a packed row.

    `mask`, `advantages`, `logp_behavior`, `kept` and `positive` belong to the last `len(...)`
    tokens: the response. With no mask every token after the first counts.
    """

    tokens: np.ndarray
    mask: np.ndarray | None = None
    advantages: np.ndarray | None = None
    logp_behavior: np.ndarray | None = None
    prompt_id: int = 0
    kept: np.ndarray | None = None  # [response, M], what a truncated sampler could have drawn
    positive: np.ndarray | None = None


class Group(NamedTuple):
    """Sequences that begin with the same `prompt` tokens, whose places they may share; 0 = none."""

    prompt: int
    members: list[int]


def best_fit(lengths: SequenceOf[int], row_length: int) -> list[list[int]]:
    """Indices per row: longest first, each into the fullest row it still fits in."""
    alone = [Group(0, [index]) for index in range(len(lengths))]
    return [[g.members[0] for g in row] for row in fit_groups(alone, lengths, row_length)]


def fit_groups(
    groups: SequenceOf[Group], places: SequenceOf[int], row_length: int
) -> list[list[Group]]:
    """The parts of groups that lie in each row, in no more rows than `best_fit` may need.

    The first of a group in a row takes its `places`, any other as many as it has after the prompt,
    and one more, so that there are never more predictions than places. The largest group comes
    first; within it the longest sequence, into a row that holds its prompt if one has room.
    """
    rows: list[list[Group]] = []
    space: list[int] = []  # of each row
    fullest: list[tuple[int, int]] = []  # (space, row), sorted
    order = sorted(groups, key=lambda g: (-_group_places(g, places), g.members))
    for prompt, members in order:
        here: dict[int, list[int]] = {}  # row -> this group's members in it
        for index in sorted(members, key=lambda i: (-places[i], i)):
            need = places[index] + 1 - prompt
            row = min((r for r in here if space[r] >= need), key=lambda r: space[r], default=None)
            if row is None:
                need = places[index]
                spot = bisect.bisect_left(fullest, (need, -1))
                row = fullest[spot][1] if spot < len(fullest) else len(rows)
            if row == len(rows):
                _require_fits(index, need, row_length)
                rows.append([])
                space.append(row_length)
            else:
                fullest.pop(bisect.bisect_left(fullest, (space[row], row)))
            space[row] -= need
            bisect.insort(fullest, (space[row], row))
            here.setdefault(row, []).append(index)
        for row, inside in here.items():
            rows[row].append(Group(prompt, inside))
    return rows


def _group_places(group: Group, places: SequenceOf[int]) -> int:
    return sum(places[i] - group.prompt for i in group.members) + group.prompt


def _require_fits(index: int, need: int, row_length: int) -> None:
    if need > row_length:
        raise ValueError(
            f"sequence {index} needs {need} places, a row has {row_length}: "
            "raise row_length or drop the sequence"
        )


def prompt_groups(sequences: SequenceOf[Sequence]) -> list[Group]:
    """Sequences with the same prompt id and the same prompt; those without a response alone."""
    groups: dict[Any, Group] = {}
    for index, sequence in enumerate(sequences):
        response = 0 if sequence.mask is None else len(sequence.mask)
        prompt = sequence.tokens[: len(sequence.tokens) - response] if response else ()
        key = (sequence.prompt_id, bytes(prompt)) if len(prompt) else index
        groups.setdefault(key, Group(len(prompt), [])).members.append(index)
    return list(groups.values())


def pack(
    sequences: SequenceOf[Sequence | np.ndarray | SequenceOf[int]],
    *,
    row_length: int,
    rows: int | None = None,
    share_prompts: bool = False,
    block: int = 1,
) -> PackedBatch:
    """Lay sequences into rows of `row_length` places; `rows` fixes their number (padding added).

    A sequence of n tokens takes n - 1 places: place t reads token t and predicts token t + 1.
    Bare token arrays count as documents: every prediction is in the loss.

    `share_prompts`: responses to one prompt that lie in one row share its places. Each sees the
    prompt and itself, its positions go on where the prompt ends, and its first token is predicted
    at the prompt's last place. Losses and gradients are the same, in fewer places.

    `block`: places that attention visits at once. A row that has places to spare leaves some empty
    before what would otherwise lie in one block more than it must.
    """
    items = [
        s if isinstance(s, Sequence) else Sequence(as_token_ids(f"sequence {at}", s))
        for at, s in enumerate(sequences)
    ]
    for index, item in enumerate(items):
        _require_places(index, item)
    alone = [Group(0, [index]) for index in range(len(items))]
    groups = prompt_groups(items) if share_prompts else alone
    layout = fit_groups(groups, [len(s.tokens) - 1 for s in items], row_length)
    if rows is not None and len(layout) > rows:
        raise ValueError(
            f"{len(items)} sequences need {len(layout)} rows of {row_length}, {rows} allowed"
        )
    shape = (len(layout) if rows is None else rows, row_length)
    room = max((item.kept.shape[1] for item in items if item.kept is not None), default=0)
    batch = empty_batch(
        shape, share_prompts, room, positive=any(item.positive is not None for item in items)
    )
    for row, parts in enumerate(layout):
        cursor = Cursor(0, 0, 1, row_length - _places_taken(parts, items), block)
        for prompt, members in parts:
            responses = [items[index] for index in members]
            if len(responses) > 1:
                cursor = _lay_sharing(batch, row, cursor, responses[0].tokens[:prompt], responses)
            else:
                cursor = _lay(batch, row, cursor, responses[0])
    return batch


def empty_batch(
    shape: tuple[int, int], share_prompts: bool, kept: int = 0, *, positive: bool = False
) -> PackedBatch:
    integers = ("tokens", "positions", "segment_ids", "sources", "targets", "sequence_ids")
    return PackedBatch(
        **{name: np.zeros(shape, np.int32) for name in (*integers, "prompt_ids")},
        prefix_ids=np.zeros(shape, np.int32) if share_prompts else None,
        mask=np.zeros(shape, bool),
        advantages=np.zeros(shape, np.float32),
        logp_behavior=np.zeros(shape, np.float32),
        logp_ref=np.zeros(shape, np.float32),
        kept=np.full((*shape, kept), -1, np.int32) if kept else None,
        positive=np.zeros(shape, np.float32) if positive else None,
    )


class Cursor(NamedTuple):
    """Where the next sequence of a row goes."""

    place: int
    prediction: int
    segment: int
    spare: int  # places of the row that can stay empty
    block: int

    def before(self, places: int) -> "Cursor":
        """For so many places: at the next block, if they would take one more from here."""
        inside = self.place % self.block
        blocks, least = (-(-count // self.block) for count in (inside + places, places))
        skipped = self.block - inside
        if not places or blocks == least or skipped > self.spare:
            return self
        return self._replace(place=self.place + skipped, spare=self.spare - skipped)

    def after(self, places: int, predictions: int) -> "Cursor":
        """Behind a segment of so many."""
        return self._replace(
            place=self.place + places,
            prediction=self.prediction + predictions,
            segment=self.segment + 1,
        )


def _places_taken(parts: SequenceOf[Group], items: SequenceOf[Sequence]) -> int:
    """By what lies in a row."""
    own = (len(items[i].tokens) - 1 - part.prompt for part in parts for i in part.members)
    return sum(own) + sum(part.prompt for part in parts)


def _require_places(index: int, sequence: Sequence) -> None:
    places = len(sequence.tokens) - 1
    for name in _RESPONSE_FIELDS:
        values = getattr(sequence, name)
        if values is not None and len(values) > places:
            raise ValueError(f"sequence {index} has {len(values)} {name} for {places} places")


def _lay(batch: PackedBatch, row: int, cursor: Cursor, sequence: Sequence) -> Cursor:
    """A whole sequence; every place predicts, the prompt's without counting."""
    places = len(sequence.tokens) - 1
    cursor = cursor.before(places)
    if batch.prefix_ids is None:  # predictions lie where their sources do
        cursor = cursor._replace(prediction=cursor.place)
    at = np.arange(cursor.place, cursor.place + places)
    _lay_places(batch, row, at, sequence.tokens[:-1], 0, (cursor.segment, cursor.segment))
    _lay_predictions(batch, row, cursor, at, sequence)
    return cursor.after(places, places)


def _lay_sharing(
    batch: PackedBatch, row: int, cursor: Cursor, prompt: np.ndarray, sequences: list[Sequence]
) -> Cursor:
    """A prompt, then of each sequence only what comes after it."""
    cursor = cursor.before(len(prompt))
    at, shared = np.arange(cursor.place, cursor.place + len(prompt)), cursor.segment
    _lay_places(batch, row, at, prompt, 0, (shared, shared))
    cursor, last = cursor.after(len(prompt), 0), at[-1:]
    for sequence in sequences:
        response = sequence.tokens[len(prompt) :]
        cursor = cursor.before(len(response) - 1)
        at = np.arange(cursor.place, cursor.place + len(response) - 1)
        _lay_places(batch, row, at, response[:-1], len(prompt), (cursor.segment, shared))
        sources = np.concatenate([last, at])
        _lay_predictions(batch, row, cursor, sources, sequence)
        cursor = cursor.after(len(at), len(sources))
    return cursor


def _lay_places(
    batch: PackedBatch,
    row: int,
    at: np.ndarray,
    tokens: np.ndarray,
    position: int,
    ids: tuple[int, int],
) -> None:
    batch.tokens[row, at] = tokens
    batch.positions[row, at] = np.arange(position, position + len(at))
    batch.segment_ids[row, at], prefix = ids
    if batch.prefix_ids is not None:
        batch.prefix_ids[row, at] = prefix


def _lay_predictions(
    batch: PackedBatch, row: int, cursor: Cursor, sources: np.ndarray, sequence: Sequence
) -> None:
    """The last `len(sources)` tokens, each predicted at its source."""
    count = len(sources)
    end = cursor.prediction + count
    where = slice(cursor.prediction, end)
    batch.sources[row, where] = sources
    batch.targets[row, where] = sequence.tokens[len(sequence.tokens) - count :]
    batch.sequence_ids[row, where] = cursor.segment
    batch.prompt_ids[row, where] = sequence.prompt_id
    if sequence.mask is None:
        batch.mask[row, where] = True
    for name in _RESPONSE_FIELDS:
        values = getattr(sequence, name)
        if values is not None and len(values):
            places = (row, slice(end - len(values), end), *map(slice, np.shape(values)[1:]))
            getattr(batch, name)[places] = values


def split_micro(batch: PackedBatch, rows_per_micro: int) -> tuple[PackedBatch, int]:
    """([M, rows, T] batch, how many micro-batches hold any token).

    Rows are filled from the first, so padding gathers in the last micro-batches, which the update
    then skips.
    """
    rows, length = batch.tokens.shape
    if rows % rows_per_micro:
        raise ValueError(f"{rows} rows do not split into micro-batches of {rows_per_micro}")
    shape = (rows // rows_per_micro, rows_per_micro, length)
    split = jax.tree.map(lambda field: field.reshape(*shape, *field.shape[2:]), batch)
    used = int(np.sum(np.any(split.segment_ids > 0, axis=(1, 2))))
    return split, used
