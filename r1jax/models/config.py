"""What a decoder is, as data."""

import dataclasses
import itertools
from typing import NamedTuple

import jax.numpy as jnp

from r1jax.ops.attention import BACKENDS
from r1jax.ops.rope import UNSCALED, RopeScaling


@dataclasses.dataclass(frozen=True)
class MoeConfig:
    """A mixture of experts where the MLP would be: a router sends each token to `chosen` of them.

    softmax: the router's scores are probabilities (Qwen3). sigmoid: each expert is scored by itself
    (DeepSeek-V3, arXiv 2412.19437 section 2.1.2).
    """

    experts: int = 0  # 0 = a plain MLP in every layer
    chosen: int = 1
    ffn: int = 256  # of each expert
    shared: int = 0  # so many experts, as one MLP, that every token has beside the chosen
    dense_layers: tuple[int, ...] = ()  # layers that keep the plain MLP
    score: str = "softmax"
    selection_bias: bool = False  # a bias per expert that counts in the choice, not in the weight
    normalized: bool = False  # the weights of the chosen are scaled to a sum of 1
    scale: float = 1.0  # of the weights, after that
    groups: int = 1  # of experts; a token chooses within the best `chosen_groups` of them
    chosen_groups: int = 1

    def __post_init__(self) -> None:
        if not self.experts:
            return
        if self.score not in ("softmax", "sigmoid"):
            raise ValueError(f"model.moe.score={self.score!r}: must be 'softmax' or 'sigmoid'")
        if not 1 <= self.chosen_groups <= self.groups or self.experts % self.groups:
            raise ValueError(
                f"model.moe.groups={self.groups}, chosen_groups={self.chosen_groups}: groups must "
                f"divide experts={self.experts}, and the chosen be some of them"
            )
        of_a_group = self.experts // self.groups
        if self.groups > 1 and of_a_group < 2:
            raise ValueError(
                f"model.moe.groups={self.groups}: a group of {of_a_group} of the "
                f"{self.experts} experts has no two best to be judged by"
            )
        if not 1 <= self.chosen <= of_a_group * self.chosen_groups:
            raise ValueError(
                f"model.moe.chosen={self.chosen}: must lie between 1 and the "
                f"{of_a_group * self.chosen_groups} experts to choose from"
            )
        if min(self.ffn, self.shared + 1) < 1:
            raise ValueError(f"model.moe.ffn={self.ffn}, shared={self.shared}: too small")


@dataclasses.dataclass(frozen=True)
class MlaConfig:
    """Multi-head latent attention (DeepSeek-V3). `head_dim` is that of queries and keys, of which
    the last `rope_dim` are turned by RoPE."""

    kv_rank: int = 0  # of the latent that keys and values are made from; 0 = plain attention
    query_rank: int = 0  # of the one that queries are made from; 0 = from the input itself
    rope_dim: int = 64
    value_dim: int = 128  # of each head
    interleaved: bool = True  # RoPE turns neighbours, not places half a head apart


class Stack(NamedTuple):
    """Layers with the same parameters, one after another: one scan."""

    name: str  # in the parameter tree
    first: int
    length: int
    sparse: bool  # a mixture of experts, not an MLP


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama/Qwen-style decoder. `dtype` is the compute dtype; parameters are float32."""

    vocab_size: int = 0  # 0 in a training config = the tokenizer's
    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 16
    ffn: int = 256
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = UNSCALED
    windows: tuple[int, ...] = ()  # a layer sees so many tokens, 0 = all; () = every layer all
    max_positions: int = 0  # what an export states; 0 = a length that most readers assume, 32768
    norm_eps: float = 1e-6
    qk_norm: bool = False
    qkv_bias: bool = False
    tied_head: bool = True
    dtype: str = "float32"
    remat: str = "dots"  # what a layer keeps for its backward pass: models/remat.py
    attention: str = "xla"
    moe: MoeConfig = MoeConfig()
    mla: MlaConfig = MlaConfig()
    mtp: bool = False  # a module behind the layers that predicts one token further

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be 1 or more")
        for name in ("vocab_size", "max_positions"):
            if getattr(self, name) < 0:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be 0 or more")
        for name in ("rope_theta", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be above 0")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.kv_heads={self.kv_heads}: must divide model.heads={self.heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim={self.head_dim}: must be even, RoPE turns pairs")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype={self.dtype!r}: must be 'float32' or 'bfloat16'")
        if self.remat not in ("none", "full", "dots"):
            raise ValueError(f"model.remat={self.remat!r}: must be 'none', 'full' or 'dots'")
        if self.attention not in BACKENDS:
            known = ", ".join(repr(name) for name in BACKENDS)
            raise ValueError(f"model.attention={self.attention!r}: must be one of {known}")
        if not set(self.moe.dense_layers) <= set(range(self.layers)):
            raise ValueError(
                f"model.moe.dense_layers={self.moe.dense_layers}: must be some of the "
                f"{self.layers} layers, counted from 0"
            )
        if len(self.windows) not in (0, self.layers) or min(self.windows, default=0) < 0:
            raise ValueError(
                f"model.windows={self.windows}: must be () or one number, 0 or more, for each of "
                f"model.layers={self.layers}"
            )

        if self.mla.kv_rank:
            self._check_latent()

    def _check_latent(self) -> None:
        mla = self.mla
        if min(mla.kv_rank, mla.query_rank + 1, mla.value_dim) < 1:
            raise ValueError(f"model.mla={mla}: ranks and dims must be above 0")
        if mla.rope_dim % 2 or not 0 < mla.rope_dim < self.head_dim:
            raise ValueError(
                f"model.mla.rope_dim={mla.rope_dim}: must be even, and a part of "
                f"model.head_dim={self.head_dim}"
            )
        plain = {"kv_heads": self.heads, "qkv_bias": False, "qk_norm": False}
        for name, wanted in plain.items():
            if getattr(self, name) != wanted:
                raise ValueError(
                    f"model.{name}={getattr(self, name)}: latent attention has only {wanted}"
                )

    @property
    def reach(self) -> int:
        """The places it was trained for or its RoPE is stretched to; 0 = nobody said."""
        scaling = self.rope_scaling
        first = self.max_positions if scaling.kind == "linear" else scaling.original_positions
        stretched = 0 if scaling.kind == "none" else round(scaling.factor * first)
        return max(self.max_positions, stretched) if self.max_positions else 0

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """Of each layer, how far it sees; None = everything before."""
        return tuple(window or None for window in self.windows) or (None,) * self.layers

    @property
    def sparse_layers(self) -> tuple[bool, ...]:
        """Of each layer, whether it is a mixture of experts."""
        dense = set(self.moe.dense_layers) if self.moe.experts else range(self.layers)
        return tuple(layer not in dense for layer in range(self.layers))

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Runs of layers of one kind. The last is `layers`, others carry their first layer's
        number: DeepSeek-V3 has `layers_0`, three dense ones, and `layers`."""
        stacks = []
        for sparse, run in itertools.groupby(enumerate(self.sparse_layers), lambda item: item[1]):
            layers = [layer for layer, _ in run]
            name = "layers" if layers[-1] == self.layers - 1 else f"layers_{layers[0]}"
            stacks.append(Stack(name, layers[0], len(layers), sparse))
        return tuple(stacks)

    @property
    def cache_dims(self) -> tuple[int, int, int]:
        """(heads, size of a key, size of a value) that a layer's cache holds of each token."""
        if self.mla.kv_rank:
            return 1, self.mla.kv_rank + self.mla.rope_dim, 0
        return self.kv_heads, self.head_dim, self.head_dim

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)
