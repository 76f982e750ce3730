"""Rewards: plain Python that never imports jax."""
