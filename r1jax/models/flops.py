"""Floating-point operations of a model's forward pass: what any implementation of it must do.

    2 · weights that multiply a token  +  2 · heads · (head_dim + value_dim) · places it attends to

Of a mixture the experts that are chosen count; norms, biases, RoPE and the embedding's look-up do
not. A backward pass is twice a forward one. The usual "6 N a token" is this without attention.
"""

import collections
import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from r1jax.models.axes import PARAM_AXES
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import Transformer, init_params


class Work(NamedTuple):
    """What a forward pass is asked to do."""

    tokens: float = 0.0  # through the layers
    attended: float = 0.0  # places attended to, summed over tokens and layers
    predictions: float = 0.0  # tokens that the head scores the vocabulary for

    def plus(self, other: "Work") -> "Work":
        return Work(*map(sum, zip(self, other, strict=True)))


def forward_flops(config: ModelConfig, work: Work) -> float:
    value_dim = config.mla.value_dim if config.mla.kv_rank else config.head_dim
    return (
        2.0 * layer_weights(config) * work.tokens
        + 2.0 * config.heads * (config.head_dim + value_dim) * work.attended
        + 2.0 * config.width * config.vocab_size * work.predictions
    )


@functools.cache
def layer_weights(config: ModelConfig) -> float:
    """Weights of the layers that multiply each token."""
    shapes = jax.eval_shape(functools.partial(init_params, Transformer(config)), 0)
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        top, name = path[0].key, path[-1].key
        axes = PARAM_AXES[name]
        if not top.startswith("layers") or len(axes) < 2 or name.endswith("_bias"):
            continue
        chosen = config.moe.chosen / config.moe.experts if axes[0] == "experts" else 1.0
        total += math.prod(leaf.shape) * chosen
    return total


def attended_by(config: ModelConfig, contexts: np.ndarray) -> float:
    """Summed over layers, for tokens that see `contexts` places each, themselves among them."""
    total = 0.0
    for window, layers in collections.Counter(config.layer_windows).items():
        seen = contexts if window is None else np.minimum(contexts, window)
        total += layers * float(seen.sum(dtype=np.float64))
    return total


def attended_up_to(config: ModelConfig, lengths: np.ndarray) -> float:
    """The same for whole sequences: contexts 1, 2, ..., length of each."""
    lengths = np.asarray(lengths, np.float64)
    total = 0.0
    for window, layers in collections.Counter(config.layer_windows).items():
        short = lengths if window is None else np.minimum(lengths, window)
        total += layers * float((short * (short + 1) / 2 + (lengths - short) * short).sum())
    return total
