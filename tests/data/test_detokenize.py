"""Pieces of text as tokens come: together the text, and never half a character."""

import numpy as np
import pytest
from hf_folder import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.data.detokenize import TextStream
from r1jax.data.tokenizers import SymbolTokenizer


def decode_bytes(tokens):
    return bytes(tokens).decode(errors="replace")


def pieces_of(decode, tokens, cuts):
    stream = TextStream(decode)
    pieces = [stream.push(part.tolist()) for part in np.split(tokens, cuts)]
    return [*pieces, stream.finish()]


@given(st.text(max_size=120), st.randoms())
@settings(max_examples=100, deadline=None)
def test_pieces_of_text_have_whole_characters_only(text, random):
    tokens = np.array(list(text.encode(errors="replace")), np.uint8)
    cuts = sorted(random.randrange(len(tokens) + 1) for _ in range(len(text)))
    pieces = pieces_of(decode_bytes, tokens, cuts)
    clean = text.encode(errors="replace").decode()
    assert "".join(pieces) == clean
    if "\ufffd" not in clean:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, 255), max_size=150))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_text_come_out_as_they_would_at_once(values):
    tokens = np.array(values, np.uint8)
    assert "".join(pieces_of(decode_bytes, tokens, range(len(values)))) == decode_bytes(values)


def test_a_real_tokenizer_s_tokens_one_by_one():
    pytest.importorskip("transformers")
    tokenizer = make_tokenizer()
    text = "caf\u00e9 \u4e2d\u6587 \U0001f600 is <think> 1 + 2? " * 9 + "\U0001f469\u200d\U0001f680"
    ids = np.array(tokenizer.encode(text))
    assert len(ids) > 150
    pieces = pieces_of(tokenizer.decode, ids, range(len(ids)))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_symbols_with_blanks_between_them():
    tokenizer = SymbolTokenizer([str(i) for i in range(30)], joiner=" ")
    ids = np.array(tokenizer.encode("12 7 3 29 " * 30))
    assert "".join(pieces_of(tokenizer.decode, ids, range(len(ids)))) == tokenizer.decode(
        ids.tolist()
    )


def test_half_a_character_at_the_end_is_given_as_it_is():
    stream = TextStream(decode_bytes)
    assert stream.push(list("a\u00e9".encode()[:2])) == "a"
    assert stream.finish() == "\ufffd"


def test_ids_beyond_the_symbols_are_a_replacement_sign():
    """A model may have a larger vocabulary, and say any of it."""
    tokenizer = SymbolTokenizer("012")
    ids = [*tokenizer.encode("02"), len(tokenizer), len(tokenizer) + 9]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "02\ufffd\ufffd"
