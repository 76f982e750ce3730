"""A sampler of eight bits: as near the trainer as stated, the same however it decodes, smaller."""

import functools

import jax
import numpy as np
import pytest
from helpers import compile_fully, counted_compiles, log_softmax, make_tiny
from test_generate import MANY_PROMPTS, SAMPLING, apply, tiny
from test_speculative import DEEPSEEK

from r1jax import models
from r1jax.config import Config, from_config_dict
from r1jax.errors import UserError
from r1jax.models.transformer import init_params
from r1jax.ops.kv_cache import count_bytes
from r1jax.ops.sampling import SamplingArrays, SamplingParams
from r1jax.rollout import RolloutConfig, decode, generate, plan, prepare_params

BOTH = {"int8_weights": True, "int8_cache": True}
COPIED = {"share_prompts": "never"}


def sample(model=None, prompts=MANY_PROMPTS, sampling=SAMPLING, samples=3, **config):
    module, params = tiny(**(model or {}))
    return generate(
        module,
        params,
        prompts,
        sampling=sampling,
        samples_per_prompt=samples,
        seed=0,
        config=RolloutConfig(**config),
    )


def trainer_logp(rollouts, prompts, model=None):
    """[R, S], what the training path gives the tokens."""
    longest = max(map(len, prompts)) + rollouts.tokens.shape[1]
    tokens = np.zeros((len(rollouts.lengths), longest), np.int32)
    places = np.zeros(rollouts.tokens.shape, int)
    for row in range(len(tokens)):
        prompt = prompts[row // rollouts.samples_per_prompt]
        text = [*prompt, *rollouts.response(row)]
        tokens[row, : len(text)] = text
        places[row] = len(prompt) - 1 + np.arange(places.shape[1])
    logp = log_softmax(np.asarray(apply(*tiny(**(model or {})), tokens)))
    return logp[np.arange(len(tokens))[:, None], places, rollouts.tokens]


@pytest.mark.parametrize(
    ("changes", "mean", "most"),
    [
        ({"int8_cache": True}, 0.01, 0.1),
        ({"int8_weights": True}, 0.03, 0.4),
        (BOTH, 0.03, 0.4),
        ({}, 2e-6, 1e-5),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", [None, pytest.param(DEEPSEEK, marks=pytest.mark.slow)])
def test_the_gap_to_the_trainer_is_bounded_and_there(changes, mean, most, model):
    """On weights of random normals, harder to round than trained ones."""
    rollouts = sample(model, **COPIED, **changes)
    counted = np.arange(rollouts.tokens.shape[1])[None] < rollouts.lengths[:, None]
    gap = np.abs(rollouts.logp - trainer_logp(rollouts, MANY_PROMPTS, model))[counted]
    assert gap.mean() < mean
    assert gap.max() < most
    assert not changes or gap.mean() > 1e-3


@pytest.mark.slow
def test_weights_of_the_ratio_bring_the_samples_back_to_the_policy():
    """Which is what truncated importance sampling starts from: E[w] = 1, E[w 1(token)] = p."""
    prompts, samples = [[5, 6, 7]], 3000
    sampling = SamplingParams(max_tokens=3, temperature=1.0)
    rollouts = sample(prompts=prompts, sampling=sampling, samples=samples, **BOTH)
    ratio = np.exp((trainer_logp(rollouts, prompts) - rollouts.logp).sum(axis=1))
    assert ratio.std() > 0.01
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / samples**0.5
    policy = np.exp(log_softmax(np.asarray(apply(*tiny(), np.array([prompts[0]])))[0, -1]))
    found = np.bincount(rollouts.tokens[:, 0], weights=ratio, minlength=24) / samples
    np.testing.assert_allclose(found, policy, atol=4 * (policy.max() / samples) ** 0.5)


OTHER_WAYS = {
    "few slots": {**COPIED, "slots": 5, "chunk": 3, "room": 4},
    "shared prompts": {"share_prompts": "always"},
    "drafts": {**COPIED, "speculate": "ngram", "ngram": 1},
    "prompts in parts": {**COPIED, "prefill_chunk": 5},
}


@pytest.mark.parametrize("model", [None, pytest.param(DEEPSEEK, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "way",
    [
        way if way == "prompts in parts" else pytest.param(way, marks=pytest.mark.slow)
        for way in OTHER_WAYS
    ],
)
def test_a_response_is_the_same_however_it_is_decoded(way, model):
    wanted = sample(model, **COPIED, **BOTH)
    got = sample(model, **OTHER_WAYS[way], **BOTH)
    for name in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    np.testing.assert_allclose(got.logp, wanted.logp, atol=1e-5)


@pytest.mark.slow
def test_the_modules_own_drafts_change_no_response():
    model = {**DEEPSEEK, "mtp": True}
    wanted = sample(model, **COPIED, **BOTH)
    got = sample(model, **COPIED, **BOTH, speculate="mtp", draft_tokens=2)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)


# Qwen3-0.6B's layers in bfloat16, two of its twenty-eight, and a small vocabulary.
CONFIG = models.ModelConfig(
    vocab_size=1000,
    layers=2,
    width=1024,
    heads=16,
    kv_heads=8,
    head_dim=128,
    ffn=3072,
    qk_norm=True,
    dtype="bfloat16",
)


def bytes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_weights_and_caches_are_half_of_bfloat16():
    params = jax.eval_shape(functools.partial(init_params, models.Transformer(CONFIG)), 0)
    plain, small = (
        jax.eval_shape(functools.partial(prepare_params, CONFIG, int8=int8), params)["layers"]
        for int8 in (False, True)
    )
    kernels = CONFIG.layers * 1024 * (2 * 16 * 128 + 2 * 8 * 128 + 3 * 3072)
    assert bytes_of(plain) - bytes_of(small) == kernels - 4 * CONFIG.layers * (
        (16 + 8 + 8) * 128 + 1024 + 2 * 3072 + 1024
    )
    assert bytes_of(small) < 0.51 * bytes_of(plain)
    make = functools.partial(
        plan.make_plan,
        [500] * 8,
        samples_per_prompt=4,
        sampling=SamplingParams(max_tokens=1000, stop_ids=(1,)),
        row_multiple=1,
    )
    plain, small = (
        plan.count_cache_bytes(CONFIG, make(config=RolloutConfig(int8_cache=int8)))
        for int8 in (False, True)
    )
    assert small == plain * (128 + 4) // 256


def test_a_second_rollout_compiles_nothing():
    sample(**COPIED, **BOTH)
    with counted_compiles() as compiles:
        sample(prompts=[[1, 2]] * 5 + [[3] * 17] * 2, **COPIED, **BOTH)
    assert compiles.count == 0


@pytest.mark.parametrize("name", BOTH)
def test_training_on_it_asks_for_a_correction(name):
    tree = {"rollout": {name: True}}
    with pytest.raises(UserError, match=rf"^config.rollout.{name}=True: .*correction='tis'"):
        from_config_dict(tree)
    tree["objective"] = {"correction": "tis", "correction_high": 2.0}
    assert isinstance(from_config_dict(tree), Config)


def test_decoding_makes_no_floats_of_a_whole_cache():
    """Of what the loop carries only int8 and scales have a cache's shape; XLA:CPU multiplies
    floats, so there the layer that is being read is made into floats, one at a time."""
    module, params = make_tiny(layers=3)
    rows, room = 16, 512
    loop = decode.empty_loop.eval_shape(
        decode.empty_slots.eval_shape(
            module.config, rows, rows, 16, room, variant=decode.Variant(int8_cache=True)
        ),
        decode.empty_outputs.eval_shape(rows, room),
    )
    scalar = functools.partial(jax.ShapeDtypeStruct, ())
    lowered = decode.decode.lower(
        module.config,
        jax.eval_shape(functools.partial(prepare_params, module.config, int8=True), params),
        loop,
        decode.empty_bank.eval_shape(
            module.config, 4, 4, 16, variant=decode.Variant(int8_cache=True)
        ),
        SamplingArrays.of(SamplingParams(), module.config.vocab_size),
        units=scalar("int32"),
        more=scalar("bool"),
        chunk=scalar("int32"),
        variant=decode.Variant(int8_cache=True),
    )
    compiled = compile_fully(lowered)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(loop))
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes == state
    shape = ",".join(map(str, loop.slots.suffix[0].keys.shape))
    carried = [
        line.split(" while(")[0] for line in compiled.as_text().splitlines() if " while(" in line
    ]
    assert max(line.count(f"s8[{shape}]") for line in carried) == 2 * 3
    assert not any(f"f32[{shape}]" in line for line in carried)
    one = count_bytes(loop.slots.suffix[:1])
    assert memory.temp_size_in_bytes < 5 * one
