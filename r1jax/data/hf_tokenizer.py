"""A transformers tokenizer behind r1jax's protocol: `r1jax.data.tokenizers.Tokenizer`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.data.tokenizers import TAGS
from r1jax.errors import UserError


class HFTokenizer:
    """Ids and text of a checkpoint's own tokenizer.

    Without a pad token, EOS pads: nothing here tells padding by its id, lengths and segments do.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer names no EOS, so no response could end; "
                "set eos_token in its tokenizer_config.json"
            )
        self._tokenizer = tokenizer
        self.eos_token_id: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = self.eos_token_id if pad is None else pad
        # The format reward reads R1's tags: they stay even where a tokenizer calls them special.
        tags = set(tokenizer.convert_tokens_to_ids(list(TAGS)))
        self._skipped = frozenset(tokenizer.all_special_ids) - tags

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        skipped = self._skipped if skip_special_tokens else ()
        kept = [int(token) for token in token_ids if token not in skipped]
        return self._tokenizer.decode(kept, clean_up_tokenization_spaces=False)

    @property
    def has_chat(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the model's chat template makes of a conversation."""
        if not self.has_chat:
            raise UserError(
                f"{self._tokenizer.name_or_path}: has no chat template; use a template of text"
            )
        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except ImportError as error:
            raise UserError(
                f"{self._tokenizer.name_or_path}: chat templates need jinja2: pip install jinja2"
            ) from error

    def save_pretrained(self, folder: str | pathlib.Path) -> None:
        self._tokenizer.save_pretrained(folder)

    @property
    def bos_token_id(self) -> int | None:
        return self._tokenizer.bos_token_id

    def __len__(self) -> int:
        return len(self._tokenizer)


def load_tokenizer(source: str | pathlib.Path) -> HFTokenizer:
    """Of a folder, or of a hub id: the copy on this machine, else a download."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{source}: reading its tokenizer needs transformers: pip install transformers"
        ) from error
    folder = pathlib.Path(source).expanduser()
    read = transformers.AutoTokenizer.from_pretrained
    try:
        if folder.is_dir():
            return HFTokenizer(read(str(folder), local_files_only=True))
        try:
            return HFTokenizer(read(str(source), local_files_only=True))
        except (OSError, ValueError):  # not on this machine yet
            return HFTokenizer(read(str(source)))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{source}: no tokenizer could be read; wanted: tokenizer.json and "
            f"tokenizer_config.json in a folder ({reason})"
        ) from error
