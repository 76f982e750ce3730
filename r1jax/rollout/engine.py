"""From prompts to `Rollouts`: buckets, keys, the jitted programs, and back to the host."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.models import Transformer
from r1jax.ops.sampling import SamplingArrays, SamplingParams, row_keys
from r1jax.rollout import decode
from r1jax.types import Params, PromptBatch, Rollouts

# Prompts are padded to a multiple of this, so that few shapes are ever compiled.
PROMPT_BUCKET = 16


def generate(
    module: Transformer,
    params: Params,
    prompts: PromptBatch | Sequence[Sequence[int]],
    *,
    sampling: SamplingParams,
    samples_per_prompt: int,
    seed: int,
    step: int = 0,
) -> Rollouts:
    """Sample `samples_per_prompt` responses to each prompt.

    A response depends on (seed, step, prompt id, sample) and the parameters only: not on what else
    is in the batch, nor on devices. Bare token lists get their place in the list as id.
    """
    prompts = as_prompt_batch(prompts)
    rollout = dispatch(
        module,
        decode.prepare_params(module.config, params),
        prompts,
        sampling=sampling,
        samples_per_prompt=samples_per_prompt,
        seed=seed,
        step=step,
    )
    return rollout.collect()


class InFlight(NamedTuple):
    """A rollout the device is busy with; `collect` waits for it."""

    prompts: PromptBatch
    tokens: jax.Array
    logp: jax.Array
    lengths: jax.Array
    finished: jax.Array

    def collect(self) -> Rollouts:
        arrays = jax.device_get((self.tokens, self.logp, self.lengths, self.finished))
        return Rollouts(self.prompts, *arrays)


def dispatch(
    module: Transformer,
    decode_params: Any,
    prompts: PromptBatch,
    *,
    sampling: SamplingParams,
    samples_per_prompt: int,
    seed: int,
    step: int = 0,
) -> InFlight:
    """Start a rollout and return at once. Parameters come from `decode.prepare_params`."""
    tokens_PS, lengths_P = pad_prompts(prompts.tokens, PROMPT_BUCKET)
    ids_R = np.repeat(prompts.ids, samples_per_prompt).astype(np.uint32)
    samples_R = np.tile(np.arange(samples_per_prompt, dtype=np.uint32), len(prompts))
    state = decode.prefill_groups(
        module.config,
        decode_params,
        tokens_PS,
        lengths_P,
        samples_per_prompt,
        sampling.max_tokens,
    )
    state = decode.decode(
        module.config,
        decode_params,
        state,
        _make_keys(seed, step, ids_R, samples_R),
        np.repeat(lengths_P, samples_per_prompt),
        SamplingArrays.of(sampling),
    )
    return InFlight(prompts, state.tokens, state.logp, state.lengths, state.finished)


_make_keys = jax.jit(row_keys)


def as_prompt_batch(prompts: PromptBatch | Sequence[Sequence[int]]) -> PromptBatch:
    if isinstance(prompts, PromptBatch):
        return prompts
    tokens = tuple(np.asarray(p, np.int32) for p in prompts)
    return PromptBatch(np.arange(len(tokens)), tokens, ({},) * len(tokens))


def pad_prompts(prompts: Sequence[np.ndarray], bucket: int) -> tuple[np.ndarray, np.ndarray]:
    """(prompts padded on the right to a multiple of `bucket`, their lengths)."""
    lengths = np.array([len(p) for p in prompts], np.int32)
    if not len(lengths):
        raise ValueError("no prompts: give at least one")
    if lengths.min() == 0:
        raise ValueError(f"prompt {int(lengths.argmin())} is empty: a prompt needs a token")
    width = -(-int(lengths.max()) // bucket) * bucket
    padded = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    return padded, lengths
