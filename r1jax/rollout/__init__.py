"""Sampling: a jitted KV-cache decode loop and the engine around it."""

from r1jax.ops.sampling import SamplingParams
from r1jax.rollout.decode import prepare_params
from r1jax.rollout.engine import InFlight, as_prompt_batch, dispatch, generate
from r1jax.rollout.plan import RolloutConfig

__all__ = [
    "InFlight",
    "RolloutConfig",
    "SamplingParams",
    "as_prompt_batch",
    "dispatch",
    "generate",
    "prepare_params",
]
