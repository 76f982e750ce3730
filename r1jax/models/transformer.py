"""The decoder as a Flax Linen module: a scan over layers to train, the same parameters unrolled
to decode.

Training reads whole packed rows (`hidden`, `__call__`). Decoding keeps a cache per layer
(`prefill`, `extend`) and takes its parameters through `prepare_decode_params`: cast, and cut
into a list of layers once per policy version, because slicing a stack inside the loop copies it.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.mesh import constrain
from r1jax.models import lora
from r1jax.models.config import ModelConfig, Stack
from r1jax.models.grouped import Attention
from r1jax.models.latent import LatentAttention
from r1jax.models.moe import Moe, Routing, gated_mlp
from r1jax.models.norm import rms_norm
from r1jax.models.quantized import quantize_kernels
from r1jax.models.remat import remat
from r1jax.ops import attention, kv_cache
from r1jax.ops.kv_cache import Caches, LayerCache, grow, quantized, write
from r1jax.ops.logprobs import compute_logits
from r1jax.ops.quant import SCALE
from r1jax.types import Params

_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-2, out_axis=-1)


class Block(lora.Adaptable):
    config: ModelConfig
    sparse: bool = False  # a mixture of experts, not an MLP

    def setup(self) -> None:
        c = self.config
        self.attention = (LatentAttention if c.mla.kv_rank else Attention)(c)
        ones = nn.initializers.ones
        self.attention_norm = self.param("attention_norm", ones, (c.width,))
        self.mlp_norm = self.param("mlp_norm", ones, (c.width,))
        if self.sparse:
            self.moe = Moe(c)
        else:
            self.gate = self.param("gate", _INIT, (c.width, c.ffn))
            self.up = self.param("up", _INIT, (c.width, c.ffn))
            self.down = self.param("down", _INIT, (c.ffn, c.width))

    def mlp(
        self, x: Float[Array, "B T D"], counted: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        if self.sparse:
            return self.moe(x, counted)
        return gated_mlp(x, self.gate, self.up, self.down), None

    def finish(
        self, x: Float[Array, "B T D"], attended: Float[Array, "B T D"], counted: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        """Everything after the attention: residuals, MLP."""
        x = x + attended
        out, routing = self.mlp(rms_norm(x, self.mlp_norm, self.config.norm_eps), counted)
        return constrain(x + out, "batch", None, None), routing

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        window: int | Int[Array, ""] | None,
        prefix_ids: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array], Routing | None]:
        """(output, the keys and values a cache would hold, what the router did)."""
        normed = rms_norm(x, self.attention_norm, self.config.norm_eps)
        heads = attention.attend(
            *self.attention.project(normed, positions),
            segment_ids_BT=segment_ids,
            prefix_ids_BT=prefix_ids,
            positions_BT=positions,
            window=window,
            windows=self.config.layer_windows,
            scale=self.attention.scale,
            backend=self.config.attention,
        )
        x, routing = self.finish(x, self.attention.merge(heads), segment_ids > 0)
        return x, self.attention.project_cached(normed, positions)[1:], routing

    def extend(
        self,
        x: Float[Array, "R C D"],
        window: int | None,
        prefix: LayerCache | None,
        suffix: LayerCache,
        prefix_lengths: Int[Array, " R"],
        filled: Int[Array, " R"],
    ) -> tuple[Float[Array, "R C D"], LayerCache]:
        """C more tokens per row, behind the prefix and what the suffix is filled with."""
        positions = (prefix_lengths + filled)[:, None] + jnp.arange(x.shape[1])[None]
        normed = rms_norm(x, self.attention_norm, self.config.norm_eps)
        q, k, v = self.attention.project_cached(normed, positions)
        suffix = write(suffix, k, v, filled)
        heads = attention.attend_cache(
            q,
            None if prefix is None else self.attention.readable(prefix),
            self.attention.readable(suffix),
            prefix_lengths_R=prefix_lengths,
            filled_R=filled,
            window=window,
            scale=self.attention.scale,
        )
        attended = self.attention.merge_cached(heads)
        x, _ = self.finish(x, attended, jnp.ones(positions.shape, bool))
        return x, suffix


class _ScanBlock(nn.Module):
    """`Block` in the shape `nn.scan` wants: (carry, broadcast...) -> (carry, to be stacked)."""

    config: ModelConfig
    sparse: bool

    @nn.compact
    def __call__(
        self,
        x: Array,
        positions: Array,
        segment_ids: Array,
        prefix_ids: Array | None,
        window: Array | None,
    ) -> tuple[Array, Routing | None]:
        block = Block(self.config, self.sparse, name="block")
        x, _, routing = block(x, positions, segment_ids, window, prefix_ids)
        return x, routing


class Mtp(nn.Module):
    """Multi-token prediction (DeepSeek-V3, section 2.2): one block that reads a hidden state and
    the token behind it, and says the hidden state from which the head predicts one further."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        ones = nn.initializers.ones
        self.token_norm = self.param("token_norm", ones, (c.width,))
        self.hidden_norm = self.param("hidden_norm", ones, (c.width,))
        self.join = self.param("join", _INIT, (2 * c.width, c.width))
        self.block = Block(c, bool(c.moe.experts))
        self.output_norm = self.param("output_norm", ones, (c.width,))

    def __call__(
        self,
        hidden: Float[Array, "B T D"],
        next_tokens: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array], Routing | None]:
        """`hidden` as the head reads them; `next_tokens` embedded."""
        x = self._joined(hidden, next_tokens)
        x, cached, routing = self.block(x, positions, segment_ids, None)
        return rms_norm(x, self.output_norm, self.config.norm_eps), cached, routing

    def extend(
        self,
        hidden: Float[Array, "R C D"],
        next_tokens: Float[Array, "R C D"],
        prefix: LayerCache | None,
        suffix: LayerCache,
        prefix_lengths: Int[Array, " R"],
        filled: Int[Array, " R"],
    ) -> tuple[Float[Array, "R C D"], LayerCache]:
        """C more places per row, as `Block.extend` reads them."""
        joined = self._joined(hidden, next_tokens)
        x, suffix = self.block.extend(joined, None, prefix, suffix, prefix_lengths, filled)
        return rms_norm(x, self.output_norm, self.config.norm_eps), suffix

    def _joined(
        self, hidden: Float[Array, "B T D"], next_tokens: Float[Array, "B T D"]
    ) -> Float[Array, "B T D"]:
        eps = self.config.norm_eps
        hidden = rms_norm(hidden, self.hidden_norm, eps)
        both = jnp.concatenate([rms_norm(next_tokens, self.token_norm, eps), hidden], axis=-1)
        return both @ self.join.astype(both.dtype)


class Transformer(nn.Module):
    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        normal = nn.initializers.normal(c.width**-0.5)
        self.embedding = self.param("embedding", normal, (c.vocab_size, c.width))
        self.final_norm = self.param("final_norm", nn.initializers.ones, (c.width,))
        if not c.tied_head:
            self.head = self.param("head", normal, (c.width, c.vocab_size))
        for stack in c.stacks:
            scan = nn.scan(
                remat(_ScanBlock, c.remat, scanned=True),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=cast(Any, (*(nn.broadcast,) * 3, 0)),  # flax's hint says int
                length=stack.length,
            )
            setattr(self, stack.name, scan(c, stack.sparse))
        if c.mtp:
            self.mtp = remat(Mtp, c.remat, scanned=False)(c)

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefix_ids: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """The normalised last hidden states: what the head reads.

        A place sees its segment, and the segment that `prefix_ids` names: a prompt it shares.
        """
        return self.hidden_and_routing(tokens, positions, segment_ids, prefix_ids)[0]

    def hidden_and_routing(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefix_ids: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], dict[str, Routing]]:
        """`hidden`, and by stack what its routers did: for `moe.balance_loss` and `rebalance`."""
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        x = embed(self.embedding, tokens, self.config)
        windows = stack_windows(self.config)
        routing = {}
        ids = (segment_ids, prefix_ids)
        for stack in self.config.stacks:
            of_stack = slice(stack.first, stack.first + stack.length)
            x, routing[stack.name] = getattr(self, stack.name)(
                x, positions, *ids, None if windows is None else windows[of_stack]
            )
        routing = {name: each for name, each in routing.items() if each is not None}
        return rms_norm(x, self.final_norm, self.config.norm_eps), routing

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:
        head = self.embedding.T if self.config.tied_head else self.head
        return compute_logits(self.hidden(tokens, positions, segment_ids), head)

    def mtp_hidden(
        self,
        hidden: Float[Array, "B T D"],
        next_tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
    ) -> tuple[Float[Array, "B T D"], dict[str, Routing]]:
        """What the head reads to predict the token behind `next_tokens`, which are those behind
        each place; and what the router of the block did."""
        embedded = embed(self.embedding, next_tokens, self.config)
        x, _, routing = self.mtp(hidden, embedded, positions, segment_ids)
        return x, {} if routing is None else {"mtp": routing}

    def touch(self, tokens: Int[Array, "B T"]) -> None:
        """Run every part once, so that its parameters are made."""
        hidden = self.hidden(tokens)
        if self.config.mtp:
            self.mtp_hidden(hidden, tokens, jnp.zeros_like(tokens), jnp.ones_like(tokens))


def stack_windows(config: ModelConfig) -> Int[Array, " L"] | None:
    """Every layer's window for a scan over layers; None where no layer has one."""
    if not any(config.windows):
        return None
    sizes = (attention.ENDLESS if w is None else w for w in config.layer_windows)
    return jnp.array([*sizes], jnp.int32)


def init_params(module: Transformer, seed: int | jax.Array) -> Params:
    """Fresh float32 parameters; a pure function of the seed, so it can run under jit, sharded."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    key = jax.random.key(seed, impl="threefry2x32")
    return module.init(key, tokens, method="touch")["params"]


def without_head(module: Transformer, params: Params) -> tuple[Transformer, Params]:
    """The backbone, for who reads its hidden states only."""
    config = dataclasses.replace(module.config, tied_head=True, mtp=False)
    dropped = ("head", "mtp")
    return Transformer(config), {k: leaf for k, leaf in params.items() if k not in dropped}


def head_kernel(config: ModelConfig, params: Params) -> Float[Array, "D V"]:
    return params["embedding"].T if config.tied_head else params["head"]


def embed(
    embedding: Float[Array, "V D"], tokens: Int[Array, "B T"], config: ModelConfig
) -> Float[Array, "B T D"]:
    x = jnp.take(embedding, tokens, axis=0).astype(config.compute_dtype)
    return constrain(x, "batch", None, None)


def prepare_decode_params(
    config: ModelConfig, params: Params, *, int8: bool = False
) -> dict[str, Any]:
    """Parameters as decoding wants them: compute dtype, layers as a list.

    The head, routers and the scales of norms stay float32: training uses these as they are. With
    `int8` the layers' projections have eight bits (`models.quantized`). Run it under jit once per
    policy version.
    """

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        name = path[-1].key
        as_it_is = name.endswith(("norm", SCALE)) or name.startswith("router")
        return leaf if as_it_is or leaf.dtype == jnp.int8 else leaf.astype(config.compute_dtype)

    def ready(layer: Params) -> Any:
        return jax.tree_util.tree_map_with_path(cast, quantize_kernels(layer) if int8 else layer)

    def layers_of(stack: Stack) -> list[Any]:
        block = params[stack.name]["block"]
        layers = range(stack.length)
        return [ready(jax.tree.map(operator.itemgetter(layer), block)) for layer in layers]

    params = lora.merge(params)
    return {
        "embedding": params["embedding"].astype(config.compute_dtype),
        "head": head_kernel(config, params).astype(jnp.float32),
        "final_norm": params["final_norm"],
        "layers": [layer for stack in config.stacks for layer in layers_of(stack)],
        **({"mtp": ready(params["mtp"])} if config.mtp else {}),
    }


def pinned(caches: Caches) -> Caches:
    """Rows over the batch axes of the mesh, heads over `tensor`."""

    def pin(leaf: Array) -> Array:
        return constrain(leaf, "batch", "kv_heads", *[None] * (leaf.ndim - 2))

    return jax.tree.map(pin, caches)


def empty_caches(
    config: ModelConfig,
    rows: int,
    slots: int,
    *,
    more: int = 0,
    int8: bool = False,
    turned: bool = False,
) -> Caches:
    """One for each layer, and for so many more of their kind."""
    heads, key, value = config.cache_dims

    def zeros(size: int) -> Array:
        return jnp.zeros((rows, heads, slots, size), config.compute_dtype)

    def empty() -> LayerCache:
        cache = LayerCache(zeros(key), zeros(value))
        if turned and not config.mla.kv_rank:  # those of latents are read as values too
            return kv_cache.turned(cache)
        return quantized(cache) if int8 else cache

    return pinned([empty() for _ in range(config.layers + more)])


def extend(
    config: ModelConfig,
    decode_params: Mapping[str, Any],
    tokens_RC: Int[Array, "R C"],
    prefix: Caches | None,
    suffix: Caches,
    *,
    prefix_lengths_R: Int[Array, " R"],
    filled_R: Int[Array, " R"],
) -> tuple[Float[Array, "R C D"], Caches]:
    """Read C tokens per row behind what its caches hold; (hidden states after each, suffix).

    Decoding is C = 1; checking a draft, and reading on in a long prompt, is C > 1.
    """
    x = embed(decode_params["embedding"], tokens_RC, config)
    extended = []
    kinds = zip(config.sparse_layers, config.layer_windows, strict=True)
    for number, (sparse, window) in enumerate(kinds):
        x, own = cast(
            tuple[Array, LayerCache],
            Block(config, sparse).apply(
                {"params": decode_params["layers"][number]},
                x,
                window,
                None if prefix is None else prefix[number],
                suffix[number],
                prefix_lengths_R,
                filled_R,
                method=Block.extend,
            ),
        )
        extended.append(own)
    return rms_norm(x, decode_params["final_norm"], config.norm_eps), extended


def prefill(
    config: ModelConfig,
    decode_params: Mapping[str, Any],
    tokens_PS: Int[Array, "P S"],
    lengths_P: Int[Array, " P"],
    *,
    chunk: int,
) -> tuple[Float[Array, "P S D"], Caches]:
    """(hidden states after each token of the prompts, keys and values of every layer).

    Prompts are padded on the right, and read `chunk` tokens at a time: scores then take
    `chunk x S` places, not `S x S`. The first chunk is read as training reads a row.
    """
    prompts, width = tokens_PS.shape
    hidden, caches = _read_rows(config, decode_params, tokens_PS[:, :chunk], lengths_P)
    states = [hidden]
    for start in range(chunk, width, chunk):
        end = min(start + chunk, width)
        hidden, caches = extend(
            config,
            decode_params,
            tokens_PS[:, start:end],
            None,
            pinned(grow(caches, end)),
            prefix_lengths_R=jnp.zeros(prompts, jnp.int32),
            filled_R=jnp.full(prompts, start, jnp.int32),
        )
        states.append(hidden)
    return jnp.concatenate(states, axis=1), caches


def take_last(hidden_PSD: Float[Array, "P S D"], lengths_P: Int[Array, " P"]) -> Array:
    """[P, D], each row's state after its last token."""
    return jnp.take_along_axis(hidden_PSD, (lengths_P - 1)[:, None, None], axis=1)[:, 0]


def _read_rows(
    config: ModelConfig,
    decode_params: Mapping[str, Any],
    tokens_PS: Int[Array, "P S"],
    lengths_P: Int[Array, " P"],
) -> tuple[Float[Array, "P S D"], Caches]:
    """(hidden states, caches) of rows of which each holds the start of one prompt."""
    places = jnp.arange(tokens_PS.shape[1])
    positions = jnp.broadcast_to(places[None], tokens_PS.shape)
    segment_ids = (places[None] < lengths_P[:, None]).astype(jnp.int32)
    x = embed(decode_params["embedding"], tokens_PS, config)
    caches = []
    kinds = zip(config.sparse_layers, config.layer_windows, strict=True)
    for layer, (sparse, window) in zip(decode_params["layers"], kinds, strict=True):
        block = Block(config, sparse)
        x, (k, v), _ = cast(Any, block.apply({"params": layer}, x, positions, segment_ids, window))
        caches.append(kv_cache.make(k, v))
    return rms_norm(x, decode_params["final_norm"], config.norm_eps), pinned(caches)
