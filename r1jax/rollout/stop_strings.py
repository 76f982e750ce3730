"""Stop strings, which the host finds: the device knows tokens only."""

from collections.abc import Callable, Sequence

import numpy as np

Decoder = Callable[[Sequence[int]], str]


class StopStrings:
    """Where responses complete a stop string, looked for as their tokens come."""

    def __init__(self, strings: Sequence[str], decode_text: Decoder | None) -> None:
        self._strings = tuple(strings)
        self._decode = decode_text or (lambda _: "")
        self._clean: dict[int, int] = {}  # row -> tokens that hold no stop string

    def __bool__(self) -> bool:
        return bool(self._strings)

    def find(self, row: int, tokens: np.ndarray) -> int:
        """How many tokens it takes to complete the first stop string, 0 = there is none."""
        clean = self._clean.get(row, 0)
        if len(tokens) <= clean or not self._holds(tokens):
            self._clean[row] = len(tokens)
            return 0
        # Text grows with its tokens, so holding a string is monotone: halve.
        low, high = clean, len(tokens)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._holds(tokens[:middle]) else (middle, high)
        return high

    def _holds(self, tokens: np.ndarray) -> bool:
        text = self._decode(tokens.tolist())
        return any(string in text for string in self._strings)
