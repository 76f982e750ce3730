"""Decoders as Flax Linen modules, and how to make them."""

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import Transformer
from r1jax.types import Params

__all__ = ["ModelConfig", "Transformer", "from_scratch", "init_params"]


def init_params(module: Transformer, seed: int | jax.Array) -> Params:
    """Fresh float32 parameters; a pure function of the seed, so it can run under jit, sharded."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    return module.init(jax.random.key(seed, impl="threefry2x32"), tokens)["params"]


def from_scratch(config: ModelConfig, *, seed: int = 0) -> tuple[Transformer, Params]:
    module = Transformer(config)
    return module, jax.jit(init_params, static_argnums=0)(module, seed)
