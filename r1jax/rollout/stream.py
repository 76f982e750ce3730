"""A rollout that is read while it is being sampled."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from r1jax.models import Transformer
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout import decode
from r1jax.rollout.engine import dispatch
from r1jax.rollout.plan import RolloutConfig
from r1jax.types import PromptBatch


class Progress(NamedTuple):
    """What G responses to one prompt are so far."""

    tokens: np.ndarray  # [G, S]
    lengths: np.ndarray  # [G]
    done: np.ndarray  # [G] bool, True = no more tokens will come
    finished: np.ndarray  # [G] bool, True = ended itself


def stream(
    module: Transformer,
    decode_params: Any,
    prompt: PromptBatch,
    *,
    sampling: SamplingParams,
    samples: int,
    seed: int,
    every: int = 8,
) -> Iterator[Progress]:
    """The responses to one prompt after every few tokens, the same as `generate` gives."""
    rollout = dispatch(
        module,
        decode_params,
        prompt,
        sampling=sampling,
        samples_per_prompt=samples,
        seed=seed,
        config=RolloutConfig(chunk=every),
    )
    looks = rollout.finished()
    while True:
        seen = rollout.so_far()
        done = seen.endings != decode.GOING
        yield Progress(seen.tokens, seen.lengths, done, seen.endings == decode.STOPPED)
        if done.all():
            return
        next(looks)  # which starts the next chunk
