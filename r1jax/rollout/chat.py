"""A policy of our own that answers messages: a judge without a service (`rewards.judge.Chat`)."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.ops.sampling import SamplingParams
from r1jax.rollout import engine
from r1jax.rollout.decode import prepare_params
from r1jax.types import Params, PromptBatch

Messages = Sequence[Mapping[str, str]]


class PolicyChat:
    """`chat(messages, seed=…)` samples one reply; None where it was cut before it ended.

    The same messages and seed give the same reply, whatever was asked before. The prompt is what
    the tokenizer's chat template makes of the messages (`HFTokenizer.chat`). Calls of several
    threads wait for each other; to ask many at once, use `replies`.
    """

    def __init__(
        self, module: Any, params: Params, tokenizer: Any, sampling: SamplingParams
    ) -> None:
        self._module, self._tokenizer, self._sampling = module, tokenizer, sampling
        self._params = prepare_params(module.config, params)
        self._lock = threading.Lock()

    def __call__(self, messages: Messages, *, seed: int) -> str | None:
        return self.replies([messages], seed=seed)[0]

    def replies(self, conversations: Sequence[Messages], *, seed: int) -> list[str | None]:
        """One reply to each, sampled side by side."""
        texts = [self._tokenizer.chat(messages) for messages in conversations]
        tokens = tuple(np.array(self._tokenizer.encode(text), np.int32) for text in texts)
        # What is said names the prompt, so that its reply does not depend on its place.
        prompts = PromptBatch(
            np.array([_name_of(text) for text in texts]), tokens, ({},) * len(texts)
        )
        with self._lock:
            rollouts = engine.dispatch(
                self._module,
                self._params,
                prompts,
                sampling=self._sampling,
                samples_per_prompt=1,
                seed=seed,
            ).collect()
        return [
            self._tokenizer.decode(rollouts.response(row).tolist(), skip_special_tokens=True)
            if rollouts.finished[row]
            else None
            for row in range(len(texts))
        ]


def _name_of(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest, "big")
