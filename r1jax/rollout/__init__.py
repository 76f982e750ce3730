"""Sampling: a jitted KV-cache decode loop and the engine around it."""

from r1jax.ops.sampling import SamplingParams
from r1jax.rollout.decode import prepare_params
from r1jax.rollout.engine import as_prompt_batch, dispatch, generate
from r1jax.rollout.groups import Groups, generate_groups
from r1jax.rollout.in_flight import InFlight
from r1jax.rollout.partial import Carried, take_groups
from r1jax.rollout.plan import RolloutConfig

__all__ = [
    "Carried",
    "Groups",
    "InFlight",
    "RolloutConfig",
    "SamplingParams",
    "as_prompt_batch",
    "dispatch",
    "generate",
    "generate_groups",
    "prepare_params",
    "take_groups",
]
