"""Stop strings are found at the token that completes them, whatever tokens and bytes these are."""

import numpy as np
import pytest

from r1jax.rollout.stop_strings import StopStrings


def of_bytes(tokens):
    """Each token is a byte: what is not whole yet is no character."""
    return bytes(tokens).decode("utf-8", errors="replace")


def of_words(tokens):
    return "".join(("step", "\n\nQ", ":", " 7", "</ans", "wer>", "")[token] for token in tokens)


def first_cut(text_of, string, tokens):
    """By hand: how many tokens it takes."""
    lengths = range(1, len(tokens) + 1)
    return next((n for n in lengths if string in text_of(tokens[:n])), 0)


@pytest.mark.parametrize("look", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text_of", "string", "tokens"),
    [
        (of_bytes, "é", list("aé".encode())),  # two bytes, neither is a character
        (of_bytes, "🙂!", list("🙃🙂!x".encode())),
        (of_bytes, "é", [0xC3, 0x41, 0xC3, 0xA9, 0x42]),  # behind a broken one
        (of_bytes, "b", [0xFF, 0x62, 0x62]),
        (of_words, "</answer>", [0, 4, 5, 3]),  # no token is a part of it and no more
        (of_words, "\nQ:", [3, 1, 6, 2, 0]),
        (of_words, "\n", [0, 1, 2]),  # within a token
        (of_words, "t", [3, 0, 0]),
        (of_words, "nowhere", [0, 1, 2, 3]),
    ],
)
def test_a_string_ends_with_the_token_that_completes_it(text_of, string, tokens, look):
    """However many tokens come between two looks."""
    stops = StopStrings([string], text_of)
    found = 0
    for length in [*range(look, len(tokens), look), len(tokens)]:
        found = found or stops.find(3, np.array(tokens[:length]))
    assert found == first_cut(text_of, string, tokens)


def test_the_first_of_several_strings_counts_and_rows_are_their_own():
    stops = StopStrings([":", "step", "7"], of_words)
    assert stops.find(0, np.array([1, 3, 0, 2])) == 2
    assert stops.find(1, np.array([1, 6, 0, 2])) == 3
    assert not StopStrings([], None)
