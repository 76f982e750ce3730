"""Sampling: a jitted KV-cache decode loop and the engine around it."""

from r1jax.ops.sampling import SamplingParams
from r1jax.rollout.engine import generate, generate_prepared

__all__ = ["SamplingParams", "generate", "generate_prepared"]
