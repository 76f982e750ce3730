"""Tokens to text as they come."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# Tokens decoded again with each piece, so that what depends on a neighbour comes out right.
_CONTEXT, _LONGEST = 16, 64


class TextStream:
    """The pieces of a text whose tokens arrive a few at a time; together they are the text.

    The bytes of a character may lie in several tokens: its piece waits for the last of them.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._given = 0  # characters of the tokens' text that are out

    def push(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        self._tokens += tokens
        text = self._decode(self._tokens)
        complete = not text.endswith(_INCOMPLETE)
        ready = text if complete else text[:-1]
        piece, self._given = ready[self._given :], max(self._given, len(ready))
        if complete and len(self._tokens) > _LONGEST:
            self._tokens = self._tokens[-_CONTEXT:]
            self._given = len(self._decode(self._tokens))
        return piece

    def finish(self) -> str:
        """What is left when no more tokens come: half a character, as it is."""
        piece = self._decode(self._tokens)[self._given :]
        self._tokens, self._given = [], 0
        return piece
