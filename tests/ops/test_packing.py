"""Packing loses nothing, invents nothing, and needs no more rows than promised."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import as_users_call
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r1jax.ops.attention import make_places
from r1jax.ops.blocked_attention import find_pairs
from r1jax.ops.packing import Sequence, best_fit, pack, split_micro

FIELDS = ("tokens", "targets", "mask", "advantages", "logp_behavior", "prompt_ids")


@st.composite
def sequence_lists(draw):
    """Sequences whose tokens are all different, so that each can be found again."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=12))
    sequences, fresh = [], 1
    for number, (prompt, response) in enumerate(sizes):
        mask = draw(st.none() | st.lists(st.booleans(), min_size=response, max_size=response))
        sequences.append(
            Sequence(
                tokens=np.arange(fresh, fresh + prompt + response),
                mask=None if mask is None else np.array(mask, bool),
                advantages=np.arange(response) + 0.5,
                logp_behavior=-np.arange(response) - 0.25,
                prompt_id=number // 2,
            )
        )
        fresh += prompt + response
    return sequences


def as_laid(sequence: Sequence) -> dict[str, np.ndarray]:
    """What the packed batch must say of one sequence: n - 1 places, the response at their end."""
    places = len(sequence.tokens) - 1

    def at_the_end(values, kind):
        out = np.zeros(places, kind)
        out[places - len(values) :] = values
        return out

    mask = sequence.mask
    return {
        "tokens": sequence.tokens[:-1],
        "targets": sequence.tokens[1:],
        "mask": np.ones(places, bool) if mask is None else at_the_end(mask, bool),
        "advantages": at_the_end(sequence.advantages, np.float32),
        "logp_behavior": at_the_end(sequence.logp_behavior, np.float32),
        "prompt_ids": np.full(places, sequence.prompt_id),
    }


@settings(deadline=None)
@given(sequence_lists(), st.integers(14, 40), st.integers(0, 3), st.sampled_from([1, 4, 7]))
def test_every_sequence_is_there_once_and_whole(sequences, row_length, extra_rows, block):
    rows = len(best_fit([len(s.tokens) - 1 for s in sequences], row_length)) + extra_rows
    batch = pack(sequences, row_length=row_length, rows=rows, block=block)
    assert batch.tokens.shape == (rows, row_length)
    found = {}
    for row in range(rows):
        ids = batch.segment_ids[row]
        for segment in range(1, ids.max(initial=0) + 1):
            places = np.flatnonzero(ids == segment)
            assert (np.diff(places) == 1).all()
            np.testing.assert_array_equal(batch.positions[row, places], np.arange(len(places)))
            found[batch.tokens[row, places[0]]] = {
                name: getattr(batch, name)[row, places] for name in FIELDS
            }
    wanted = {s.tokens[0]: as_laid(s) for s in sequences if len(s.tokens) > 1}
    assert found.keys() == wanted.keys()
    for first, fields in wanted.items():
        for name, values in fields.items():
            np.testing.assert_array_equal(found[first][name], values)
    padding = batch.segment_ids == 0
    for values in jax.tree.leaves(batch):
        assert not values[padding].any()


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(50, 300))
def test_best_fit_needs_no_more_rows_than_promised(lengths, row_length):
    """ceil(n / floor(row_length / longest)) rows: the shape that every update is compiled for."""
    layout = best_fit(lengths, row_length)
    assert sorted(i for row in layout for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= row_length for row in layout)
    longest = max(lengths, default=0)
    per_row = row_length // max(longest, 1)
    assert len(layout) <= math.ceil(len(lengths) / per_row)


@st.composite
def answered_prompts(draw):
    """Responses to some prompts, every token different, prompts equal within a group."""
    sequences, fresh = [], 1
    for prompt_id, prompt in enumerate(draw(st.lists(st.integers(1, 7), max_size=5))):
        shared = np.arange(fresh, fresh + prompt)
        fresh += prompt
        for response in draw(st.lists(st.integers(1, 8), min_size=1, max_size=6)):
            tokens = np.concatenate([shared, np.arange(fresh, fresh + response)])
            kept = draw(st.lists(st.booleans(), min_size=response, max_size=response))
            fresh += response
            fields = {"mask": np.array(kept), "advantages": np.arange(response) + 0.5}
            sequences.append(
                Sequence(tokens, **fields, logp_behavior=-fields["advantages"], prompt_id=prompt_id)
            )
    return sequences


def seen_from(batch, row, place):
    """(tokens, positions) that a place reads: what packing promises to a model."""
    ids = batch.segment_ids[row]
    visible = (ids == ids[place]) | (ids == batch.prefix_ids[row, place])
    visible[place + 1 :] = False
    return batch.tokens[row, visible].tolist(), batch.positions[row, visible].tolist()


@settings(deadline=None, max_examples=50)
@given(answered_prompts(), st.integers(15, 60), st.sampled_from([1, 4, 7]))
def test_a_shared_prompt_is_read_by_each_of_its_responses(sequences, row_length, block):
    """Whoever predicts a token reads the sequence before it, at its positions, and nothing else."""
    batch = pack(sequences, row_length=row_length, share_prompts=True, block=block)
    longest = max((len(s.tokens) for s in sequences), default=1)
    assert len(batch.tokens) <= math.ceil(len(sequences) / (row_length // longest))
    found = {}
    for row, prediction in np.argwhere(batch.sequence_ids > 0):
        target = int(batch.targets[row, prediction])
        tokens, positions = seen_from(batch, row, batch.sources[row, prediction])
        assert positions == list(range(len(tokens)))
        key = (int(batch.prompt_ids[row, prediction]), *tokens, target)
        values = (batch.mask, batch.advantages, batch.logp_behavior)
        found[key] = tuple(float(x[row, prediction]) for x in values)
    for sequence in sequences:
        start = len(sequence.tokens) - len(sequence.mask)
        for i in range(len(sequence.mask)):
            key = (sequence.prompt_id, *sequence.tokens[: start + i + 1].tolist())
            values = (sequence.mask, sequence.advantages, sequence.logp_behavior)
            assert found[key] == tuple(float(x[i]) for x in values)
    assert batch.mask.sum() == sum(s.mask.sum() for s in sequences)


@pytest.mark.parametrize("share_prompts", [False, True])
def test_what_a_sampler_kept_lies_beside_its_target(share_prompts):
    """A response may name fewer tokens than another, or none; prompts name none."""
    prompt = [90, 91, 92]
    sequences = [
        Sequence(
            tokens=np.array([*prompt, 10 * number, 10 * number + 1]),
            mask=np.ones(2, bool),
            kept=None if room == 0 else 10 * number + np.arange(2)[:, None] + np.arange(room),
        )
        for number, room in enumerate([1, 3, 0])
    ]
    batch, _ = split_micro(pack(sequences, row_length=9, share_prompts=share_prompts), 1)
    assert batch.kept.shape == (*batch.targets.shape, 3)
    for target, kept in zip(batch.targets[batch.mask], batch.kept[batch.mask], strict=True):
        wanted = [[target, -1, -1], [target, target + 1, target + 2], [-1, -1, -1]]
        np.testing.assert_array_equal(kept, wanted[target // 10])
    assert (batch.kept[~batch.mask] == -1).all()


def test_a_group_larger_than_a_row_repeats_its_prompt():
    prompt = np.arange(1, 7)
    responses = [np.append(prompt, [10 + i, 20 + i, 30 + i]) for i in range(5)]
    sequences = [Sequence(tokens, mask=np.ones(3, bool)) for tokens in responses]
    batch = pack(sequences, row_length=14, share_prompts=True)
    assert [(row == 1).sum() for row in batch.segment_ids] == [6, 6]
    assert (batch.tokens == 1).sum() == 2


@settings(deadline=None)
@example(lengths=[1, 1, 1, 1], share_prompts=True, row_length=40)  # responses that take no places
@given(st.lists(st.integers(0, 30), max_size=12), st.booleans(), st.integers(34, 90))
def test_places_to_spare_keep_sequences_within_as_few_blocks_as_they_need(
    lengths, share_prompts, row_length
):
    """Until a row has no more of them; and nothing is moved that gains nothing by it."""
    block = 8
    sequences = [
        Sequence(np.full(3 + i % 2 + length, i % 2), np.ones(length, bool), prompt_id=i % 2)
        for i, length in enumerate(lengths)
    ]
    batch = pack(sequences, row_length=row_length, share_prompts=share_prompts, block=block)
    for ids in batch.segment_ids:
        spare, place = int((ids == 0).sum()), 0
        for segment in dict.fromkeys(ids[ids > 0].tolist()):
            (places,) = np.nonzero(ids == segment)
            skipped = places[0] - place
            inside = place % block
            would_take, least = -(-(inside + len(places)) // block), -(-len(places) // block)
            if skipped:
                assert (skipped, places[0] % block) == (block - inside, 0)
                assert would_take > least
            elif would_take > least:
                assert block - inside > spare
            spare -= skipped
            place = places[-1] + 1


def test_a_group_of_longest_responses_lies_in_whole_blocks():
    """A row has a place for the last token of each response, which none reads: so they fit."""
    prompt, response, samples, block = 64, 128, 8, 64
    tokens = np.arange(1, prompt + response + 1)
    sequences = [Sequence(tokens, mask=np.ones(response, bool))] * samples
    counts = []
    for each in (1, block):
        row_length = prompt + samples * response
        batch = pack(sequences, row_length=row_length, share_prompts=True, block=each)
        places = make_places(*map(jnp.asarray, (batch.segment_ids, batch.prefix_ids)), None)
        counts.append(int(find_pairs(places, block).count))
    assert counts == [55, 1 + samples * (2 + 3)]


def test_different_prompts_with_one_id_are_not_shared():
    sequences = [Sequence(np.array([first, 5, 6]), mask=np.ones(1, bool)) for first in (1, 2)]
    batch = pack(sequences, row_length=8, share_prompts=True)
    np.testing.assert_array_equal(batch.prefix_ids, batch.segment_ids)
    assert sorted(batch.tokens[0, :4].tolist()) == [1, 2, 5, 5]


def test_best_fit_takes_the_fullest_row_with_room():
    assert best_fit([6, 5, 4, 2, 1], row_length=8) == [[0, 3], [1, 4], [2]]
    assert best_fit([1, 3, 5, 7], row_length=8) == [[3, 0], [2, 1]]


def test_bare_documents_count_every_prediction():
    batch = pack([[5, 6, 7], np.array([8, 9])], row_length=3)
    assert batch.tokens.tolist() == [[5, 6, 8]]
    assert batch.targets.tolist() == [[6, 7, 9]]
    assert batch.segment_ids.tolist() == [[1, 1, 2]]
    assert batch.mask.all()


@pytest.mark.parametrize("tokens", [[1.5, 2], [[1, 2]], "text"])
def test_what_is_no_list_of_tokens_is_refused(tokens):
    with as_users_call(), pytest.raises(ValueError, match=r"sequence 1: .* give a list"):
        pack([[1, 2], tokens], row_length=4)


def test_too_long_a_sequence_is_refused():
    with pytest.raises(ValueError, match="sequence 1 needs 4 places, a row has 3"):
        pack([[1, 2], [1, 2, 3, 4, 5]], row_length=3)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="need 2 rows of 3, 1 allowed"):
        pack([[1, 2, 3], [1, 2, 3]], row_length=3, rows=1)


@pytest.mark.parametrize("name", ["mask", "advantages", "logp_behavior"])
def test_values_for_more_places_than_there_are_are_refused(name):
    """They would run into the sequence before."""
    with pytest.raises(ValueError, match=f"sequence 1 has 3 {name} for 2 places"):
        pack([[1, 2, 3], Sequence(np.arange(3), **{name: np.ones(3)})], row_length=8)


def test_micro_batches_are_rows_in_order_and_padding_is_last():
    batch = pack([[1] * 5] * 3, row_length=4, rows=8)
    split, used = split_micro(batch, 2)
    assert used == 2
    for whole, cut in zip(*map(jax.tree.leaves, (batch, split)), strict=True):
        assert cut.shape == (4, 2, 4)
        np.testing.assert_array_equal(cut.reshape(whole.shape), whole)


def test_rows_that_do_not_split_are_refused():
    with pytest.raises(ValueError, match="3 rows do not split into micro-batches of 2"):
        split_micro(pack([], row_length=4, rows=3), 2)
