"""The decoder against numpy in float64; packed, rematerialised or unrolled it stays the same."""

import dataclasses
import functools
import operator
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, make_tiny, random_batch, softmax

from r1jax import models
from r1jax.models import transformer
from r1jax.models.axes import logical_axes
from r1jax.models.config import MlaConfig, MoeConfig
from r1jax.models.norm import rms_norm
from r1jax.ops.logprobs import token_logprobs
from r1jax.ops.rope import RopeScaling

VARIANTS = {
    "llama": {},
    "qwen2": {"qkv_bias": True, "kv_heads": 4},
    "qwen3": {"qk_norm": True, "kv_heads": 1, "tied_head": False},
    "qwen3_moe": {"moe": MoeConfig(8, chosen=3, ffn=8, normalized=True, dense_layers=(0,))},
    "deepseek": {
        "kv_heads": 4,
        "head_dim": 10,
        "mla": MlaConfig(kv_rank=12, query_rank=6, rope_dim=4, value_dim=5),
        "rope_scaling": RopeScaling("yarn", 4.0, 8, magnitude=1.2, mscale_all_dim=0.7),
        "moe": MoeConfig(
            8,
            chosen=3,
            ffn=8,
            shared=1,
            dense_layers=(0,),
            score="sigmoid",
            selection_bias=True,
            normalized=True,
            scale=1.5,
            groups=4,
            chosen_groups=2,
        ),
    },
    "latent": {
        "kv_heads": 4,
        "mla": MlaConfig(kv_rank=8, rope_dim=6, value_dim=16, interleaved=False),
    },
    "windowed": {"windows": (0, 3), "rope_scaling": RopeScaling("yarn", 4.0, 8, magnitude=1.2)},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def all_but(*slow):
    """Every variant; in the default tests none of which another has all that matters."""
    return [pytest.param(v, marks=pytest.mark.slow if v in slow else []) for v in VARIANTS]


def norm_by_hand(x, scale):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + TINY.norm_eps) * scale


def rotate_by_hand(config, x):
    """x: [T, heads, H] at positions 0, 1, ..."""
    half, scaling = x.shape[-1] // 2, config.rope_scaling
    inv_freq = TINY.rope_theta ** (-np.arange(half) / half)
    if scaling.kind == "yarn":
        # Of 8 positions no plane turns once: all but the first, where the ramp starts, are slowed.
        inv_freq = np.concatenate([inv_freq[:1], inv_freq[1:] / scaling.factor])
        x = x * scaling.magnitude
    turns = np.arange(len(x))[:, None] * inv_freq
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * turns)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def latent_by_hand(config, p, x):
    mla = config.mla
    plain = config.head_dim - mla.rope_dim

    def turn(y):
        if mla.interleaved:
            y = np.concatenate([y[..., ::2], y[..., 1::2]], axis=-1)
        return rotate_by_hand(config, y)

    source, up = x, p.get("query")
    if mla.query_rank:
        source, up = norm_by_hand(x @ p["query_down"], p["query_down_norm"]), p["query_up"]
    q = np.einsum("tr,rnh->tnh", source, up)
    q = np.concatenate([q[..., :plain], turn(q[..., plain:])], axis=-1)
    latent, shared = np.split(x @ p["kv_down"], [mla.kv_rank], axis=-1)
    both = np.einsum("tr,rnh->tnh", norm_by_hand(latent, p["kv_down_norm"]), p["kv_up"])
    shared = np.repeat(turn(shared[:, None]), config.heads, axis=1)
    gain = 1 + 0.1 * config.rope_scaling.mscale_all_dim * np.log(config.rope_scaling.factor)
    return q * gain**2, np.concatenate([both[..., :plain], shared], axis=-1), both[..., plain:]


def plain_by_hand(config, p, x):
    q, k, v = (np.einsum("td,dnh->tnh", x, p[name]) for name in ("query", "key", "value"))
    if config.qkv_bias:
        q, k, v = q + p["query_bias"], k + p["key_bias"], v + p["value_bias"]
    if config.qk_norm:
        q, k = norm_by_hand(q, p["query_norm"]), norm_by_hand(k, p["key_norm"])
    q, k = rotate_by_hand(config, q), rotate_by_hand(config, k)
    return q, *(np.repeat(y, config.heads // config.kv_heads, axis=1) for y in (k, v))


def attention_by_hand(config, p, x, window):
    q, k, v = (latent_by_hand if config.mla.kv_rank else plain_by_hand)(config, p, x)
    scores = np.einsum("tnh,snh->nts", q, k) / np.sqrt(config.head_dim)
    visible = np.tril(np.ones(scores.shape[1:], bool))
    visible &= ~np.tril(visible, -(window or len(x)))
    scores = np.where(visible, scores, -np.inf)
    return np.einsum("nts,snh,nhd->td", softmax(scores), v, p["out"])


def silu(x):
    return x / (1 + np.exp(-x))


def moe_by_hand(moe, p, x):
    """Token after token, expert after expert."""
    logits = x @ p["router"]
    scores = softmax(logits) if moe.score == "softmax" else 1 / (1 + np.exp(-logits))
    out = np.zeros_like(x)
    for token, row in enumerate(scores):
        biased = row + p.get("router_bias", 0)
        groups = np.split(np.arange(moe.experts), moe.groups)
        groups.sort(key=lambda group: -np.sort(biased[group])[-2:].sum())
        allowed = np.concatenate(groups[: moe.chosen_groups])
        chosen = allowed[np.argsort(-biased[allowed])[: moe.chosen]]
        weights = row[chosen] / (row[chosen].sum() if moe.normalized else 1) * moe.scale
        for expert, weight in zip(chosen, weights, strict=True):
            gate, up, down = (p[f"expert_{name}"][expert] for name in ("gate", "up", "down"))
            out[token] += weight * ((silu(x[token] @ gate) * (x[token] @ up)) @ down)
    if moe.shared:
        out += (silu(x @ p["shared_gate"]) * (x @ p["shared_up"])) @ p["shared_down"]
    return out


def layers_of(config, params):
    """Every layer's own parameters, in order."""
    for stack in config.stacks:
        for layer in range(stack.length):
            yield jax.tree.map(operator.itemgetter(layer), params[stack.name]["block"])


def logits_by_hand(config, params, tokens):
    """One sequence, layer after layer, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["embedding"][tokens]
    for layer, p in enumerate(layers_of(config, params)):
        normed = norm_by_hand(x, p["attention_norm"])
        x = x + attention_by_hand(config, p["attention"], normed, config.layer_windows[layer])
        normed = norm_by_hand(x, p["mlp_norm"])
        if "moe" in p:
            x = x + moe_by_hand(config.moe, p["moe"], normed)
        else:
            x = x + (silu(normed @ p["gate"]) * (normed @ p["up"])) @ p["down"]
    head = params["embedding"].T if config.tied_head else params["head"]
    return norm_by_hand(x, params["final_norm"]) @ head


def apply(module, params, batch, **options):
    return module.apply(
        {"params": params}, batch.tokens, batch.positions, batch.segment_ids, **options
    )


compute_logits = jax.jit(apply, static_argnums=0)


def make_packed(seed=0):
    return random_batch(np.random.default_rng(seed), 8, longest=8, row_length=16)


def segments_of(batch):
    """(row, places) of every sequence of a packed batch."""
    for row, ids in enumerate(batch.segment_ids):
        for segment in range(1, ids.max() + 1):
            yield row, np.flatnonzero(ids == segment)


@every_variant
def test_packed_logits_equal_each_sequence_by_hand(variant):
    module, params = make_tiny(**VARIANTS[variant])
    batch = make_packed()
    logits = compute_logits(module, params, batch)
    for row, places in segments_of(batch):
        wanted = logits_by_hand(module.config, params, batch.tokens[row, places])
        np.testing.assert_allclose(logits[row, places], wanted, atol=2e-5)


def test_latent_attention_caches_the_latent_alone():
    """DeepSeek-V3's shape: 512 of the latent and 64 of the turned key, 576 a token and layer."""
    config = dataclasses.replace(
        TINY,
        heads=128,
        kv_heads=128,
        head_dim=192,
        dtype="bfloat16",
        mla=MlaConfig(kv_rank=512, query_rank=1536),
    )
    shapes = jax.eval_shape(functools.partial(models.init_params, models.Transformer(config)), 0)
    decode_params = jax.eval_shape(
        functools.partial(transformer.prepare_decode_params, config), shapes
    )
    tokens, lengths = jnp.zeros((3, 7), jnp.int32), jnp.ones(3, jnp.int32)
    _, caches = jax.eval_shape(
        functools.partial(transformer.prefill, config, chunk=7), decode_params, tokens, lengths
    )
    assert len(caches) == config.layers
    for cache in caches:
        sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)]
        assert sizes == [3 * 7 * 576 * 2, 0]


def test_a_sequence_alone_needs_neither_positions_nor_segments():
    module, params = make_tiny()
    tokens = np.array([[3, 1, 4, 1, 5, 9]])
    logits = jax.jit(module.apply)({"params": params}, tokens)
    np.testing.assert_allclose(
        logits[0], logits_by_hand(module.config, params, tokens[0]), atol=2e-5
    )


@pytest.mark.parametrize("variant", ["llama", "qwen3_moe", "deepseek"])
def test_a_sequence_has_no_influence_on_others_in_its_row(variant):
    """Not a bit of the other sequences' logits, or of the loss's gradient through them, moves."""
    module, params = make_tiny(**VARIANTS[variant])
    batch = make_packed()
    row, places = next(segments_of(batch))
    other_tokens = batch.tokens.copy()
    other_tokens[row, places] = (other_tokens[row, places] + 1) % TINY.vocab_size
    elsewhere = batch.segment_ids > 0
    elsewhere[row, places] = False

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params, batch):
        logits = apply(module, params, batch)
        return jnp.sum(jnp.where(elsewhere[..., None], jnp.sin(logits), 0)), logits[elsewhere]

    grads, logits = gradient(params, batch)
    other_grads, other_logits = gradient(params, dataclasses.replace(batch, tokens=other_tokens))
    np.testing.assert_array_equal(logits, other_logits)
    jax.tree.map(np.testing.assert_array_equal, grads, other_grads)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialisation_changes_neither_loss_nor_gradient(remat):
    batch = make_packed()

    def loss_and_gradient(remat):
        module, params = make_tiny(remat=remat, qk_norm=True)

        def loss(params, batch):
            hidden = apply(module, params, batch, method="hidden")
            head = transformer.head_kernel(module.config, params)
            logp, entropy = token_logprobs(hidden, head, batch.targets, chunk=8)
            return jnp.mean(logp - 0.1 * entropy)

        return jax.jit(jax.value_and_grad(loss))(params, batch)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6),
        loss_and_gradient(remat),
        loss_and_gradient("none"),
    )


@pytest.mark.parametrize(
    "kind", [{}, {"moe": MoeConfig(experts=4, chosen=2, ffn=8, score="sigmoid")}]
)
def test_no_product_is_computed_twice_unless_asked_for(kind):
    """`dots` computes norms and activations again, but no product with a kernel and no attention;
    `full` computes all of a layer again."""
    batch = jax.tree.map(jnp.asarray, make_packed())

    def products(remat):
        module, params = make_tiny(remat=remat, qk_norm=True, **kind)

        def loss(params):
            return jnp.sum(apply(module, params, batch, method="hidden"))

        text = str(jax.make_jaxpr(jax.grad(loss))(params))
        by_kernels = re.findall(r"dimension_numbers=\(\(\[\d\], \[\d\]\), \(\[\], \[\]\)\)", text)
        attended = text.count("= while[")  # loops over pairs of blocks, there and back
        return len(by_kernels) + text.count("= ragged_dot"), attended

    assert products("dots") == products("none")
    assert products("full") > products("none")
    assert products("full")[1] > products("dots")[1] > 0


def decode_in_parts(module, params, tokens, prompt_lengths, *, count, chunk):
    """Logits of every place from `prompt_length - 1` on: prompts, then `count` tokens at a time."""
    config = module.config
    decode_params = jax.jit(transformer.prepare_decode_params, static_argnums=0)(config, params)
    width = prompt_lengths.max()
    hidden, prefix = jax.jit(transformer.prefill, static_argnums=0, static_argnames="chunk")(
        config, decode_params, tokens[:, :width], prompt_lengths, chunk=chunk
    )
    suffix = transformer.empty_caches(config, len(tokens), tokens.shape[1])
    extend = jax.jit(transformer.extend, static_argnums=0)
    states = [transformer.take_last(hidden, jnp.asarray(prompt_lengths))[:, None]]
    for filled in range(0, tokens.shape[1] - width, count):
        places = prompt_lengths[:, None] + filled + np.arange(count)
        hidden, suffix = extend(
            config,
            decode_params,
            np.take_along_axis(tokens, places, axis=1),
            prefix,
            suffix,
            prefix_lengths_R=prompt_lengths,
            filled_R=np.full(len(tokens), filled),
        )
        states.append(hidden)
    return np.concatenate(states, axis=1), decode_params["head"]


# A token at a time is the default of test_generate too.
@pytest.mark.parametrize(
    ("variant", "count", "chunk"),
    [
        pytest.param(*variant.values, *parts, marks=variant.marks)
        for parts, variants in {
            (1, 100): all_but("llama", "qwen2", "qwen3_moe", "latent"),
            (3, 2): all_but("qwen2"),
        }.items()
        for variant in variants
    ],
)
def test_unrolled_decoding_equals_the_scanned_model(variant, count, chunk):
    module, params = make_tiny(**VARIANTS[variant])
    tokens = np.random.default_rng(0).integers(0, TINY.vocab_size, (3, 11))
    prompt_lengths = np.array([2, 5, 4])
    states, head = decode_in_parts(module, params, tokens, prompt_lengths, count=count, chunk=chunk)
    logits = jax.jit(module.apply)({"params": params}, tokens)
    for row, length in enumerate(prompt_lengths):
        wanted = logits[row, length - 1 : length - 1 + states.shape[1]]
        np.testing.assert_allclose(states[row] @ head, wanted, atol=1e-5)


@pytest.mark.parametrize("variant", all_but("qwen2", "latent"))
def test_bfloat16_decoding_rounds_where_training_rounds(variant):
    """The same bits, once XLA is kept from leaving roundings out as it likes."""
    exact = functools.partial(jax.jit, compiler_options={"xla_allow_excess_precision": False})
    module, params = make_tiny(dtype="bfloat16", **VARIANTS[variant])
    tokens = np.random.default_rng(0).integers(0, TINY.vocab_size, (3, 8))
    decode_params = transformer.prepare_decode_params(module.config, params)
    read, _ = exact(transformer.prefill, static_argnums=0, static_argnames="chunk")(
        module.config, decode_params, tokens, np.full(3, 8), chunk=8
    )
    hidden = exact(functools.partial(module.apply, method="hidden"))({"params": params}, tokens)
    assert read.dtype == hidden.dtype == jnp.bfloat16
    assert decode_params["head"].dtype == jnp.float32
    np.testing.assert_array_equal(read, hidden)


def test_bfloat16_logits_are_float32_and_near_the_float32_model():
    logits = [compute_logits(*make_tiny(dtype=d), make_packed()) for d in ("float32", "bfloat16")]
    assert logits[1].dtype == jnp.float32
    assert 1e-4 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[0]).max()


@every_variant
def test_every_parameter_has_logical_axes(variant):
    _, params = make_tiny(**VARIANTS[variant])
    axes = logical_axes(params)
    jax.tree.map(lambda leaf, names: None if leaf.ndim == len(names) else 1 / 0, params, axes)


def test_initial_parameters_are_a_function_of_the_seed():
    first, again, other = (models.from_scratch(TINY, seed=seed)[1] for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["embedding"], other["embedding"])
    layers = first["layers"]["block"]["gate"]
    assert not np.array_equal(layers[0], layers[1])


def test_initial_logits_are_of_the_order_of_one():
    module, params = models.from_scratch(TINY)
    assert 0.3 < np.std(compute_logits(module, params, make_packed())) < 3


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_heads": 3},
        {"head_dim": 7},
        {"dtype": "float16"},
        {"remat": "some"},
        {"mla": MlaConfig(kv_rank=4, rope_dim=8)},
        {"mla": MlaConfig(kv_rank=4, rope_dim=3)},
        {"kv_heads": 2, "mla": MlaConfig(kv_rank=4, rope_dim=2)},
        {"qk_norm": True, "kv_heads": 4, "mla": MlaConfig(kv_rank=4, rope_dim=2)},
    ],
)
def test_impossible_models_are_refused_by_name(changes):
    with pytest.raises(ValueError, match=f"model.{next(iter(changes))}"):
        make_tiny(**changes)


@pytest.mark.parametrize("shape", [(1, 192, 32), (2, 96, 4, 32)])
def test_a_norm_and_its_gradient_are_those_by_hand_and_turn_no_array(shape):
    """XLA:CPU would sum a scale's gradient over arrays it turned first: several times as slow."""
    rng = np.random.default_rng(0)
    x, by = rng.standard_normal((2, *shape))
    scale = rng.standard_normal(shape[-1])

    def total(x, scale, by):
        return jnp.sum(rms_norm(x, scale, TINY.norm_eps) * by)

    args = [jnp.asarray(array, jnp.float32) for array in (x, scale, by)]
    grads = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*args).compile()
    assert " transpose(" not in grads.as_text()
    inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + TINY.norm_eps)
    normed, by_normed = x * inverse, by * scale
    d_x = inverse * (by_normed - normed * np.mean(by_normed * normed, axis=-1, keepdims=True))
    d_scale = np.sum((by * normed).reshape(-1, shape[-1]), axis=0)
    for found, wanted in zip(grads(*args), (d_x, d_scale), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
