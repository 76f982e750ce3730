"""Sampling: a jitted KV-cache decode loop and the engine around it."""

from r1jax.ops.sampling import SamplingParams
from r1jax.rollout.decode import prepare_params
from r1jax.rollout.engine import InFlight, dispatch, generate

__all__ = ["InFlight", "SamplingParams", "dispatch", "generate", "prepare_params"]
