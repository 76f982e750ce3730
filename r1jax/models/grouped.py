"""Attention whose query heads share keys and values in groups, as Llama and Qwen have it."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from r1jax.models import lora
from r1jax.models.config import ModelConfig
from r1jax.models.norm import rms_norm
from r1jax.ops import rope
from r1jax.ops.kv_cache import LayerCache
from r1jax.ops.linear import linear


class Attention(lora.Adaptable):
    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        by_head = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2)
        )
        from_heads = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2
        )
        self.query = self.param("query", by_head, (c.width, c.heads, c.head_dim))
        self.key = self.param("key", by_head, (c.width, c.kv_heads, c.head_dim))
        self.value = self.param("value", by_head, (c.width, c.kv_heads, c.head_dim))
        self.out = self.param("out", from_heads, (c.heads, c.head_dim, c.width))
        if c.qkv_bias:
            zeros = nn.initializers.zeros
            self.query_bias = self.param("query_bias", zeros, (c.heads, c.head_dim))
            self.key_bias = self.param("key_bias", zeros, (c.kv_heads, c.head_dim))
            self.value_bias = self.param("value_bias", zeros, (c.kv_heads, c.head_dim))
        if c.qk_norm:
            ones = nn.initializers.ones
            self.query_norm = self.param("query_norm", ones, (c.head_dim,))
            self.key_norm = self.param("key_norm", ones, (c.head_dim,))

    def project(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Queries, keys (both turned by RoPE) and values."""
        c = self.config
        dtype = c.compute_dtype
        q, k, v = (linear(x, kernel) for kernel in (self.query, self.key, self.value))
        if c.qkv_bias:
            q = q + self.query_bias.astype(dtype)[None, None]
            k = k + self.key_bias.astype(dtype)[None, None]
            v = v + self.value_bias.astype(dtype)[None, None]
        if c.qk_norm:
            q = rms_norm(q, self.query_norm, c.norm_eps)
            k = rms_norm(k, self.key_norm, c.norm_eps)
        inv_freq = rope.frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        q, k = (rope.rotate(x, positions, inv_freq, c.rope_scaling.magnitude) for x in (q, k))
        return q, k, v

    @property
    def scale(self) -> float:
        return self.config.head_dim**-0.5

    def merge(self, heads: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        return linear(heads, self.out, axes=2)

    # What a cache holds is what attention reads; in `LatentAttention` these differ.
    project_cached = project
    merge_cached = merge

    def readable(self, cache: LayerCache) -> LayerCache:
        return cache
