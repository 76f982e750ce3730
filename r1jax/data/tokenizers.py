"""A tokenizer of whole symbols, with the methods of a Hugging Face tokenizer that r1jax uses.

What r1jax asks of any tokenizer: `encode(text, add_special_tokens=False)`,
`decode(ids, skip_special_tokens=...)`, `eos_token_id`, `pad_token_id`, `len()`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

PAD, EOS = "<pad>", "<eos>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@runtime_checkable
class Tokenizer(Protocol):
    eos_token_id: int
    pad_token_id: int

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def __len__(self) -> int: ...


class SymbolTokenizer:
    """One id per symbol: pad, EOS, R1's tags, then the symbols given. Blanks separate symbols.

    With `joiner=""` the symbols must be single characters; with `joiner=" "` they may be words or
    numbers.
    """

    pad_token_id = 0
    eos_token_id = 1

    def __init__(self, symbols: Iterable[str], *, joiner: str = "") -> None:
        self.symbols = (PAD, EOS, *TAGS, *symbols)
        self._joiner = joiner
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        if len(self._ids) != len(self.symbols):
            raise ValueError("a symbol is listed twice")
        longest_first = sorted(self.symbols, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) + r"|\s+|.", re.DOTALL)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        del add_special_tokens  # there is no BOS; EOS is written out where it is wanted
        pieces = [p for p in self._pattern.findall(text) if not p.isspace()]
        unknown = next((p for p in pieces if p not in self._ids), None)
        if unknown is not None:
            raise ValueError(f"the tokenizer has no symbol {unknown!r}, in {text[:60]!r}")
        return [self._ids[p] for p in pieces]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Tags are kept, as the format reward needs them; pad and EOS are the special tokens. An id
        beyond the symbols, which a model of a larger vocabulary may say, is a replacement sign."""
        first = 2 if skip_special_tokens else 0
        symbols = [*self.symbols, "\N{REPLACEMENT CHARACTER}"]
        last = len(self.symbols)
        return self._joiner.join(symbols[min(i, last)] for i in token_ids if i >= first)

    def __len__(self) -> int:
        return len(self.symbols)
