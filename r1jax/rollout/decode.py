"""The jitted part of a rollout: one prefill per prompt, then one `while_loop` for all rows."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.mesh import constrain
from r1jax.models import transformer
from r1jax.models.config import ModelConfig
from r1jax.ops.kv_cache import LayerCache
from r1jax.ops.logprobs import compute_logits
from r1jax.ops.sampling import SamplingArrays, sample, uniforms


class DecodeState(NamedTuple):
    """What the loop carries. Row r is one response in the making."""

    step: Int[Array, ""]  # tokens every unfinished row has
    hidden: Float[Array, "R D"]  # what the next token is sampled from
    caches: list[LayerCache]
    tokens: Int[Array, "R S"]
    logp: Float[Array, "R S"]
    lengths: Int[Array, " R"]
    done: Bool[Array, " R"]  # True = no more tokens for this row
    finished: Bool[Array, " R"]  # True = ended by a stop id


@functools.partial(jax.jit, static_argnums=0)
def prepare_params(config: ModelConfig, params: Any) -> dict[str, Any]:
    return transformer.prepare_decode_params(config, params)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def prefill_groups(
    config: ModelConfig,
    decode_params: Any,
    prompts_PS: Int[Array, "P S"],
    prompt_lengths_P: Int[Array, " P"],
    samples_per_prompt: int,
    max_tokens: int,
) -> DecodeState:
    """Read each prompt once; hand its cache, with room for a response, to all of its samples."""
    hidden, caches = transformer.prefill(config, decode_params, prompts_PS, prompt_lengths_P)
    hidden = jnp.repeat(hidden, samples_per_prompt, axis=0)

    def widen(cache_PKSH: Array) -> Array:
        rows = jnp.repeat(cache_PKSH, samples_per_prompt, axis=0)
        room = jnp.pad(rows, ((0, 0), (0, 0), (0, max_tokens), (0, 0)))
        return constrain(room, "batch", "kv_heads", None, None)

    rows = hidden.shape[0]
    return DecodeState(
        step=jnp.zeros((), jnp.int32),
        hidden=hidden,
        caches=[LayerCache(widen(keys), widen(values)) for keys, values in caches],
        tokens=jnp.zeros((rows, max_tokens), jnp.int32),
        logp=jnp.zeros((rows, max_tokens), jnp.float32),
        lengths=jnp.zeros(rows, jnp.int32),
        done=jnp.zeros(rows, bool),
        finished=jnp.zeros(rows, bool),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(
    config: ModelConfig,
    decode_params: Any,
    state: DecodeState,
    row_keys_R: Array,
    prompt_lengths_R: Int[Array, " R"],
    sampling: SamplingArrays,
) -> DecodeState:
    """Sample until every row has stopped or has `max_tokens`."""

    def unfinished(state: DecodeState) -> Array:
        return (state.step < sampling.max_tokens) & jnp.any(~state.done)

    def step(state: DecodeState) -> DecodeState:
        state, token = _choose(decode_params, state, row_keys_R, sampling)
        positions = prompt_lengths_R + state.step
        hidden, caches = transformer.decode_token(
            config, decode_params, token, positions, state.caches
        )
        return state._replace(step=state.step + 1, hidden=hidden, caches=caches)

    return jax.lax.while_loop(unfinished, step, state)


def _choose(
    decode_params: Any, state: DecodeState, row_keys_R: Array, sampling: SamplingArrays
) -> tuple[DecodeState, Int[Array, " R"]]:
    """Sample one token per row and write it down for the rows that are not done."""
    logits = compute_logits(state.hidden, decode_params["head"])
    position = jnp.broadcast_to(state.step, state.done.shape)
    token, logp = sample(logits, uniforms(row_keys_R, position), sampling)
    alive = ~state.done
    token = jnp.where(alive, token, 0)
    stopped = alive & jnp.any(token[:, None] == sampling.stop_ids[None], axis=-1)
    logp = jnp.where(alive, logp, jnp.float32(0))
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.step, axis=1)
    return (
        state._replace(
            tokens=put(state.tokens, token[:, None]),
            logp=put(state.logp, logp[:, None]),
            lengths=state.lengths + alive.astype(jnp.int32),
            done=state.done | stopped,
            finished=state.finished | stopped,
        ),
        token,
    )
