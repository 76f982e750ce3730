"""What XLA makes of the decode loop: caches in place, one loop over tokens, layers unrolled."""

import functools
import re

import jax
import numpy as np
import pytest
from helpers import TINY, compile_fully, make_tiny

from r1jax.ops.kv_cache import count_bytes
from r1jax.ops.sampling import SamplingArrays, SamplingParams
from r1jax.rollout import decode

LAYERS, PROMPTS, SAMPLES, WIDTH, ROOM = 2, 4, 4, 16, 512
ROWS = PROMPTS * SAMPLES
# As a rollout on a CPU has them, keys and values of a layer.
VARIANT = decode.Variant(turned_keys=True)
KEYS = (ROWS, TINY.kv_heads, TINY.head_dim, ROOM)
VALUES = (ROWS, TINY.kv_heads, ROOM, TINY.head_dim)


def shaped(*shape, dtype="int32"):
    return jax.ShapeDtypeStruct(shape, dtype)


@functools.cache
def abstract_params():
    module, params = make_tiny(layers=LAYERS)
    prepare = functools.partial(decode.prepare_params, module.config)
    return module.config, jax.eval_shape(prepare, params)


@pytest.fixture(scope="module", params=[1, SAMPLES], ids=["a copy each", "shared prompts"])
def program(request):
    """(compiled decode, the shapes of what it carries)"""
    config, params = abstract_params()
    loop = decode.empty_loop.eval_shape(
        decode.empty_slots.eval_shape(
            config, ROWS, ROWS // request.param, WIDTH, ROOM, variant=VARIANT
        ),
        decode.empty_outputs.eval_shape(ROWS, ROOM),
    )
    lowered = decode.decode.lower(
        config,
        params,
        loop,
        decode.empty_bank.eval_shape(config, PROMPTS, SAMPLES, WIDTH, variant=VARIANT),
        SamplingArrays.of(SamplingParams(), config.vocab_size),
        units=shaped(),
        more=shaped(dtype="bool"),
        chunk=shaped(),
        variant=VARIANT,
    )
    return compile_fully(lowered), loop


def test_the_whole_state_is_donated(program):
    compiled, loop = program
    shapes = [cache.shape for cache in jax.tree.leaves(loop.slots.suffix)]
    assert shapes == [KEYS, VALUES] * LAYERS
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(loop))
    assert compiled.memory_analysis().alias_size_in_bytes == state


def test_caches_are_written_in_place(program):
    """All scratch memory together is smaller than a copy of one layer's keys would be."""
    compiled, loop = program
    one_cache = count_bytes(loop.slots.suffix) // (2 * LAYERS)
    assert compiled.memory_analysis().temp_size_in_bytes < one_cache
    for shape in (KEYS, VALUES):
        text = ",".join(map(str, shape))
        assert not re.search(rf"\[{text}\]\S* copy\(", compiled.as_text())


def test_one_loop_over_tokens_and_one_over_free_slots_carry_the_caches(program):
    """And no loop runs over layers."""
    text = program[0].as_text()
    shapes = ["f32[" + ",".join(map(str, shape)) + "]" for shape in (KEYS, VALUES)]
    loops = [line.split(" while(")[0] for line in text.splitlines() if " while(" in line]
    carried = [sum(loop.count(shape) for shape in shapes) for loop in loops]
    # The loop over tokens, and refilling before it and within it.
    assert sorted(set(carried)) == [0, 2 * LAYERS]
    assert carried.count(2 * LAYERS) <= 3
    stacked = f"f32[{LAYERS},{TINY.width},{TINY.ffn}]"
    assert stacked not in text


def lower_reading(samples):
    config, params = abstract_params()
    waiting = decode.Waiting(
        *[shaped(PROMPTS, samples)] * 4, shaped(PROMPTS, samples, 2, dtype="uint32")
    )
    return decode.read_prompts.lower(
        config,
        params,
        decode.empty_bank.eval_shape(config, PROMPTS, samples, WIDTH),
        decode.empty_outputs.eval_shape(PROMPTS * samples, ROOM),
        shaped(PROMPTS, WIDTH),
        shaped(PROMPTS),
        shaped(PROMPTS),
        shaped(PROMPTS, samples),
        waiting,
        SamplingArrays.of(SamplingParams(), config.vocab_size),
        chunk=WIDTH,
    )


def test_a_prompt_is_read_once_for_all_its_samples():
    flops = [compile_fully(lower_reading(samples)).cost_analysis()["flops"] for samples in (1, 16)]
    np.testing.assert_allclose(flops[1], flops[0], rtol=0.02)
