"""What a decoder is, as data."""

import dataclasses

import jax.numpy as jnp

from r1jax.ops.rope import UNSCALED, RopeScaling


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
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
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

        if len(self.windows) not in (0, self.layers) or min(self.windows, default=0) < 0:
            raise ValueError(
                f"model.windows={self.windows}: must be () or one number, 0 or more, for each of "
                f"model.layers={self.layers}"
            )

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """Of each layer, how far it sees; None = everything before."""
        return tuple(window or None for window in self.windows) or (None,) * self.layers

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)
