"""Losses and advantages: arrays in, arrays out."""

from r1jax.objectives import advantages, correction, kl, policy, reductions, supervised
from r1jax.objectives.policy import PolicyObjective, policy_loss

__all__ = [
    "PolicyObjective",
    "advantages",
    "correction",
    "kl",
    "policy",
    "policy_loss",
    "reductions",
    "supervised",
]
