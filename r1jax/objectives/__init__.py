"""Losses and advantages: arrays in, arrays out."""

from r1jax.objectives import (
    advantages,
    controllers,
    correction,
    distillation,
    kl,
    policy,
    preference,
    presets,
    reductions,
    selection,
    supervised,
    value,
)
from r1jax.objectives.policy import PolicyObjective, policy_loss

__all__ = [
    "PolicyObjective",
    "advantages",
    "controllers",
    "correction",
    "distillation",
    "kl",
    "policy",
    "policy_loss",
    "preference",
    "presets",
    "reductions",
    "selection",
    "supervised",
    "value",
]
