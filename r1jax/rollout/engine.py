"""From prompts to `Rollouts`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from r1jax.errors import UserError
from r1jax.models import Transformer
from r1jax.models.config import ModelConfig
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout import decode
from r1jax.rollout import plan as planning
from r1jax.rollout.in_flight import InFlight
from r1jax.rollout.partial import Carried, make_waves, start_rollouts
from r1jax.rollout.plan import RolloutConfig
from r1jax.rollout.programs import Programs, count_batch_shards
from r1jax.rollout.stop_strings import Decoder
from r1jax.types import Params, PromptBatch, Rollouts, as_token_ids

Prompts = Sequence[Sequence[int]] | Sequence[np.ndarray]
DEFAULTS = RolloutConfig()
INT32 = np.iinfo(np.int32)  # what a seed and a step are on a device


def generate(
    module: Transformer,
    params: Params,
    prompts: PromptBatch | Prompts,
    *,
    sampling: SamplingParams,
    samples_per_prompt: int,
    seed: int,
    step: int = 0,
    config: RolloutConfig = DEFAULTS,
    decode_text: Decoder | None = None,
) -> Rollouts:
    """Sample `samples_per_prompt` responses to each prompt.

    A response depends on (seed, step, prompt id, sample) and the parameters only: not on what else
    is in the batch, nor on slots, chunks or devices. Bare token lists get their place in the list
    as id. `decode_text` is needed for stop strings only.
    """
    rollout = dispatch(
        module,
        decode.prepare_params(module.config, params, int8=config.int8_weights),
        as_prompt_batch(prompts),
        sampling=sampling,
        samples_per_prompt=samples_per_prompt,
        seed=seed,
        step=step,
        config=config,
        decode_text=decode_text,
    )
    return rollout.collect()


def dispatch(
    module: Transformer,
    decode_params: Any,
    prompts: PromptBatch,
    *,
    sampling: SamplingParams,
    samples_per_prompt: int,
    seed: int,
    step: int = 0,
    config: RolloutConfig = DEFAULTS,
    decode_text: Decoder | None = None,
    carried: Carried | None = None,
) -> InFlight:
    """Start a rollout and return at once. Parameters come from `decode.prepare_params`.

    The groups of `carried` come first; `step` says which policy it is that goes on with them.
    """
    require_call(module.config, sampling, config, decode_text, samples_per_prompt, (seed, step))
    vocab_size = module.config.vocab_size
    require_prompts(prompts.tokens, vocab_size, at_least=0 if carried else 1)
    lengths = [len(tokens) for tokens in prompts.tokens]
    planning.require_places(module.config, max(lengths, default=0), sampling.max_tokens)
    if carried is not None:
        # Responses that go on have a prompt each: their own text.
        config = dataclasses.replace(config, share_prompts="never")
        lengths += carried.lengths()
    plan = planning.make_plan(
        lengths,
        groups=len(prompts) + (len(carried) if carried else 0),
        samples_per_prompt=samples_per_prompt,
        sampling=sampling,
        config=config,
        row_multiple=count_batch_shards(),
    )
    start = start_rollouts(plan, prompts, carried, step)
    programs = Programs(module.config, decode_params, config, plan, sampling)
    return InFlight(start, make_waves(start, plan, seed=seed), programs, decode_text)


def as_prompt_batch(prompts: PromptBatch | Prompts) -> PromptBatch:
    if isinstance(prompts, PromptBatch):
        return prompts
    tokens = tuple(as_token_ids(f"prompt {at}", prompt) for at, prompt in enumerate(prompts))
    return PromptBatch(np.arange(len(tokens)), tokens, ({},) * len(tokens))


def require_call(
    model: ModelConfig,
    sampling: SamplingParams,
    config: RolloutConfig,
    decode_text: Decoder | None,
    samples_per_prompt: int,
    run_key: tuple[int, int],
) -> None:
    """What a rollout cannot be asked for; `run_key` is (seed, step)."""
    if sampling.stop_strings and decode_text is None:
        raise ValueError("sampling.stop_strings: need decode_text, tokens to text")
    if config.speculate == "mtp" and not model.mtp:
        raise UserError("rollout.speculate='mtp': this model has no MTP module; use 'ngram'")
    if samples_per_prompt < 1:
        raise ValueError(f"samples_per_prompt={samples_per_prompt}: must be 1 or more")
    for name, value in zip(("seed", "step"), run_key, strict=True):
        if not INT32.min <= value <= INT32.max:
            raise ValueError(f"{name}={value}: must lie between {INT32.min} and {INT32.max}")


def require_prompts(prompts: Sequence[np.ndarray], vocab_size: int, *, at_least: int = 1) -> None:
    if len(prompts) < at_least:
        raise ValueError("no prompts: give at least one")
    for index, tokens in enumerate(prompts):
        if not len(tokens):
            raise ValueError(f"prompt {index} is empty: a prompt needs a token")
        for token in (tokens.min(), tokens.max()):
            if not 0 <= token < vocab_size:
                raise UserError(
                    f"prompt {index} has token {token}, the model's vocabulary {vocab_size}: is it "
                    "of another tokenizer?"
                )
