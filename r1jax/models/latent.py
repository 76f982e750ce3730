"""Multi-head latent attention (DeepSeek-V3, arXiv 2412.19437 section 2.1.1).

Keys and values of all heads are linear in one small latent per token, and RoPE turns one key that
all heads share. Training spells the keys and values out. Decoding keeps the latent and the turned
key only, and has the spelling out absorbed: into the queries before, into the heads' outputs
behind. What is left is attention of all heads to one key, whose values are part of the key.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1jax.models import lora
from r1jax.models.config import ModelConfig
from r1jax.models.norm import rms_norm
from r1jax.ops import rope
from r1jax.ops.kv_cache import LayerCache
from r1jax.ops.linear import linear

# transformers and DeepSeek's own code norm latents with it, whatever rms_norm_eps says.
_LATENT_EPS = 1e-6


class LatentAttention(lora.Adaptable):
    """The same methods as `Attention`."""

    config: ModelConfig

    def setup(self) -> None:
        c, mla = self.config, self.config.mla
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=1)
        by_head = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2)
        )
        from_heads = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2
        )
        ones = nn.initializers.ones
        if mla.query_rank:
            self.query_down = self.param("query_down", init, (c.width, mla.query_rank))
            self.query_down_norm = self.param("query_down_norm", ones, (mla.query_rank,))
            self.query_up = self.param("query_up", by_head, (mla.query_rank, c.heads, c.head_dim))
        else:
            self.query = self.param("query", by_head, (c.width, c.heads, c.head_dim))
        self.kv_down = self.param("kv_down", init, (c.width, mla.kv_rank + mla.rope_dim))
        self.kv_down_norm = self.param("kv_down_norm", ones, (mla.kv_rank,))
        key_value = (mla.kv_rank, c.heads, c.head_dim - mla.rope_dim + mla.value_dim)
        self.kv_up = self.param("kv_up", by_head, key_value)
        self.out = self.param("out", from_heads, (c.heads, mla.value_dim, c.width))

    @property
    def scale(self) -> float:
        return self.config.head_dim**-0.5 * self.config.rope_scaling.score_gain

    def project(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N H"], Float[Array, "B T N V"]]:
        """Queries, keys and values of every head."""
        q, latent, turned = self._project(x, positions)
        both = jnp.einsum("btr,rnh->btnh", latent, self.kv_up.astype(x.dtype))
        k, v = jnp.split(both, [self._plain_dim], axis=-1)
        turned = jnp.broadcast_to(turned, (*k.shape[:-1], turned.shape[-1]))
        return q, jnp.concatenate([k, turned], axis=-1), v

    def project_cached(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T N C"], Float[Array, "B T 1 C"], Float[Array, "B T 1 0"]]:
        """Queries for the cache, and what it stores: keys, and values that take no place."""
        q, latent, turned = self._project(x, positions)
        plain, rotated = jnp.split(q, [self._plain_dim], axis=-1)
        keys_up = self.kv_up[..., : self._plain_dim].astype(x.dtype)
        absorbed = jnp.einsum("btnh,rnh->btnr", plain, keys_up)
        q = jnp.concatenate([absorbed, rotated], axis=-1)
        k = jnp.concatenate([latent[:, :, None], turned], axis=-1)
        return q, k, k[..., :0]

    def readable(self, cache: LayerCache) -> LayerCache:
        """Values are the latent part of the keys; the rest of a key's output is dropped later,
        because to cut the cache would copy it."""
        return LayerCache(cache.keys, cache.keys, cache.key_scales, cache.key_scales)

    def merge_cached(self, heads: Float[Array, "B T N C"]) -> Float[Array, "B T D"]:
        latent = heads[..., : self.config.mla.kv_rank]
        values_up = self.kv_up[..., self._plain_dim :].astype(heads.dtype)
        return self.merge(jnp.einsum("btnr,rnv->btnv", latent, values_up))

    def merge(self, heads: Float[Array, "B T N V"]) -> Float[Array, "B T D"]:
        return linear(heads, self.out, axes=2)

    @property
    def _plain_dim(self) -> int:
        return self.config.head_dim - self.config.mla.rope_dim

    def _project(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T R"], Float[Array, "B T 1 r"]]:
        """Queries, latents and the key that heads share, turned by RoPE where they are."""
        c, mla = self.config, self.config.mla
        if mla.query_rank:
            down = rms_norm(linear(x, self.query_down), self.query_down_norm, _LATENT_EPS)
            q = linear(down, self.query_up)
        else:
            q = linear(x, self.query)
        latent, shared = jnp.split(linear(x, self.kv_down), [mla.kv_rank], axis=-1)
        latent = rms_norm(latent, self.kv_down_norm, _LATENT_EPS)
        plain, rotated = jnp.split(q, [self._plain_dim], axis=-1)
        inv_freq = rope.frequencies(mla.rope_dim, c.rope_theta, c.rope_scaling)
        rotated, shared = (
            rope.rotate(
                rope.halves(part) if mla.interleaved else part,
                positions,
                inv_freq,
                c.rope_scaling.magnitude,
            )
            for part in (rotated, shared[:, :, None])
        )
        return jnp.concatenate([plain, rotated], axis=-1), latent, shared
