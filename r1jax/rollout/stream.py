"""A rollout that is read while it is being sampled."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import Transformer
from r1jax.ops.sampling import SamplingArrays, SamplingParams, row_keys
from r1jax.rollout import decode
from r1jax.rollout.engine import pad_prompts
from r1jax.types import PromptBatch


class Progress(NamedTuple):
    """What G responses to one prompt are so far."""

    tokens: np.ndarray  # [G, S]
    lengths: np.ndarray  # [G]
    done: np.ndarray  # [G] bool, True = no more tokens will come
    finished: np.ndarray  # [G] bool, True = ended itself


_make_keys = jax.jit(row_keys)


def stream(
    module: Transformer,
    decode_params: Any,
    prompt: PromptBatch,
    *,
    sampling: SamplingParams,
    samples: int,
    seed: int,
    every: int = 8,
    bucket: int = 16,
) -> Iterator[Progress]:
    """The responses to one prompt after every few tokens, the same as `generate` gives.

    Prompts are padded to a multiple of `bucket`: a longer one is compiled for less often.
    """
    tokens_PS, lengths_P = pad_prompts(prompt.tokens, bucket)
    numbers = np.arange(samples, dtype=np.uint32)
    keys = _make_keys(seed, 0, np.full(samples, prompt.ids[0], np.uint32), numbers)
    state = decode.prefill_groups(
        module.config, decode_params, tokens_PS, lengths_P, samples, sampling.max_tokens
    )
    arrays = SamplingArrays.of(sampling)
    for end in range(every, sampling.max_tokens + every, every):
        until = arrays._replace(max_tokens=jnp.int32(min(end, sampling.max_tokens)))
        lengths_R = np.repeat(lengths_P, samples)
        state = decode.decode(module.config, decode_params, state, keys, lengths_R, until)
        seen = Progress(*jax.device_get((state.tokens, state.lengths, state.done, state.finished)))
        last = end >= sampling.max_tokens or bool(seen.done.all())
        yield seen._replace(done=seen.done | last)
        if last:
            return
