"""What XLA makes of the decode loop: caches in place, one loop over tokens, layers unrolled."""

import functools
import re

import jax
import numpy as np
import pytest
from helpers import TINY, make_tiny

from r1jax.ops.sampling import SamplingArrays, SamplingParams, row_keys
from r1jax.rollout import decode

LAYERS, PROMPTS, SAMPLES, WIDTH, MAX_TOKENS = 2, 4, 4, 16, 496
ROWS = PROMPTS * SAMPLES
CACHE_SHAPE = (ROWS, TINY.kv_heads, WIDTH + MAX_TOKENS, TINY.head_dim)


def shaped(*shape, dtype="int32"):
    return jax.ShapeDtypeStruct(shape, dtype)


@functools.cache
def abstract_params():
    module, params = make_tiny(layers=LAYERS)
    prepare = functools.partial(decode.prepare_params, module.config)
    return module.config, jax.eval_shape(prepare, params)


def lower_prefill(samples):
    config, params = abstract_params()
    prompts, lengths = shaped(PROMPTS, WIDTH), shaped(PROMPTS)
    return decode.prefill_groups.lower(config, params, prompts, lengths, samples, MAX_TOKENS)


@pytest.fixture(scope="module")
def program():
    """(compiled decode, the shapes of its state)"""
    config, params = abstract_params()
    state = lower_prefill(SAMPLES).out_info
    ids = shaped(ROWS, dtype="uint32")
    compiled = decode.decode.lower(
        config,
        params,
        state,
        jax.eval_shape(row_keys, 0, 0, ids, ids),
        shaped(ROWS),
        SamplingArrays.of(SamplingParams()),
    ).compile()
    return compiled, state


def total_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_the_whole_state_is_donated(program):
    compiled, state = program
    assert [cache.shape for cache in jax.tree.leaves(state.caches)] == [CACHE_SHAPE] * 2 * LAYERS
    assert compiled.memory_analysis().alias_size_in_bytes == total_bytes(state)


def test_caches_are_written_in_place(program):
    """All scratch memory together is smaller than a copy of one layer's keys would be."""
    compiled, state = program
    one_cache = total_bytes(state.caches) // (2 * LAYERS)
    assert compiled.memory_analysis().temp_size_in_bytes < one_cache
    shape = ",".join(map(str, CACHE_SHAPE))
    assert not re.search(rf"\[{shape}\]\S* copy\(", compiled.as_text())


def test_one_loop_carries_all_caches_and_no_loop_runs_over_layers(program):
    text = program[0].as_text()
    shape = "f32[" + ",".join(map(str, CACHE_SHAPE)) + "]"
    carried = [
        line.split(" while(")[0].count(shape) for line in text.splitlines() if " while(" in line
    ]
    assert sorted(carried)[-2:] == [0, 2 * LAYERS]
    stacked = f"f32[{LAYERS},{TINY.width},{TINY.ffn}]"
    assert stacked not in text


def test_a_prompt_is_read_once_for_all_its_samples():
    flops = [lower_prefill(samples).compile().cost_analysis()["flops"] for samples in (1, 16)]
    np.testing.assert_allclose(flops[1], flops[0], rtol=0.02)
