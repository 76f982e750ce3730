"""Decoders as Flax Linen modules, and how to make them."""

import jax

from r1jax.models.config import ModelConfig
from r1jax.models.hf.load import load
from r1jax.models.hf.save import save_hf
from r1jax.models.transformer import Transformer, init_params
from r1jax.types import Params

__all__ = ["ModelConfig", "Transformer", "from_scratch", "init_params", "load", "save_hf"]


def from_scratch(config: ModelConfig, *, seed: int = 0) -> tuple[Transformer, Params]:
    module = Transformer(config)
    return module, jax.jit(init_params, static_argnums=0)(module, seed)
