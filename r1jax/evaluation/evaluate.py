"""How good a policy is on held-out prompts: greedy, and sampled several times."""

import dataclasses

import numpy as np

from r1jax import rollout
from r1jax.monitor.metrics import evaluation_metrics
from r1jax.training.rl import grade
from r1jax.training.setup import Setup
from r1jax.types import Graded, Params, PromptBatch, Rollouts


def evaluate(setup: Setup, params: Params) -> dict[str, float]:
    """Greedy accuracy, and accuracy, lengths, pass@k and maj@k of samples."""
    config = setup.config.eval
    decode_params = rollout.prepare_params(setup.module.config, params)
    prompts = setup.held_out_prompts()
    greedy = sample_graded(setup, decode_params, prompts, temperature=0.0, samples=1)
    sampled = sample_graded(
        setup, decode_params, prompts, temperature=config.temperature, samples=config.samples
    )
    return {
        "greedy_accuracy": float(greedy.correct.mean()),
        **evaluation_metrics(sampled, k=config.k),
    }


def sample_graded(
    setup: Setup, decode_params: Params, prompts: PromptBatch, *, temperature: float, samples: int
) -> Graded:
    """All prompts, as many at a time as a training step samples, so that memory is the same."""
    rl = setup.config.rl
    at_once = max(1, rl.prompts_per_step * rl.samples_per_prompt // samples)
    at_once = min(at_once, len(prompts))
    parts = []
    for start in range(0, len(prompts), at_once):
        chosen = np.arange(start, start + at_once) % len(prompts)  # the last chunk wraps: one shape
        parts.append(
            rollout.dispatch(
                setup.module,
                decode_params,
                take(prompts, chosen),
                sampling=dataclasses.replace(setup.sampling, temperature=temperature),
                samples_per_prompt=samples,
                seed=setup.config.seed,
            )
        )
    rollouts = concatenate(prompts, [part.collect() for part in parts], samples)
    return grade(setup, rollouts, 0)


def take(prompts: PromptBatch, chosen: np.ndarray) -> PromptBatch:
    return PromptBatch(
        prompts.ids[chosen],
        tuple(prompts.tokens[i] for i in chosen),
        tuple(prompts.items[i] for i in chosen),
    )


def concatenate(prompts: PromptBatch, parts: list[Rollouts], samples: int) -> Rollouts:
    """One `Rollouts` of the first `len(prompts)` prompts of the parts."""
    rows = len(prompts) * samples
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])[:rows]
        for name in ("tokens", "logp", "lengths", "finished")
    }
    return Rollouts(prompts, **joined)
