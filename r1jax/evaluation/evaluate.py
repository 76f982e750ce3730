"""How good a policy is on held-out prompts: greedy, and sampled several times."""

import dataclasses

from r1jax import rollout
from r1jax.monitor.metrics import evaluation_metrics
from r1jax.training.grading import collect
from r1jax.training.sampling import submit_finished
from r1jax.training.setup import Setup
from r1jax.types import Graded, Params, PromptBatch


def evaluate(setup: Setup, params: Params) -> dict[str, float]:
    """Greedy accuracy, and accuracy, lengths, pass@k and maj@k of samples."""
    return evaluate_ready(setup, rollout.prepare_params(setup.module.config, params))


def evaluate_ready(setup: Setup, decode_params: Params) -> dict[str, float]:
    """`evaluate` of what `rollout.prepare_params` gave."""
    config = setup.config.eval
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
    """All prompts, as many responses at a time as a training step has, so that memory is alike.

    It is the policy itself that is measured: nothing is rounded to eight bits."""
    config = setup.config
    at_once = config.rollout.slots or config.rl.prompts_per_step * config.rl.samples_per_prompt
    in_flight = rollout.dispatch(
        setup.module,
        decode_params,
        prompts,
        sampling=dataclasses.replace(setup.sampling, temperature=temperature),
        samples_per_prompt=samples,
        seed=config.seed,
        config=dataclasses.replace(config.rollout, slots=at_once, int8_cache=False),
        decode_text=setup.decode_text,
    )
    judged = submit_finished(setup, in_flight, 0)
    return collect(in_flight.rollouts, setup.grader, judged, with_steps=False)
