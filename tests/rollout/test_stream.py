"""Reading a rollout while it is sampled changes nothing of it."""

import itertools

import numpy as np
import pytest
from helpers import make_tiny

from r1jax import rollout
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout.engine import as_prompt_batch
from r1jax.rollout.stream import stream


@pytest.mark.parametrize(
    ("most", "every"), [(11, 4), pytest.param(8, 8, marks=pytest.mark.slow), (3, 8)]
)
def test_the_last_of_a_stream_is_what_generate_gives(most, every):
    module, params = make_tiny()
    prompt = as_prompt_batch([[3, 5, 7]])
    sampling = SamplingParams(max_tokens=most, stop_ids=(2, 9))
    wanted = rollout.generate(
        module, params, prompt, sampling=sampling, samples_per_prompt=3, seed=4
    )
    decode_params = rollout.prepare_params(module.config, params)
    seen = list(
        stream(module, decode_params, prompt, sampling=sampling, samples=3, seed=4, every=every)
    )
    np.testing.assert_array_equal(seen[-1].tokens, wanted.tokens)
    np.testing.assert_array_equal(seen[-1].lengths, wanted.lengths)
    np.testing.assert_array_equal(seen[-1].finished, wanted.finished)
    assert seen[-1].done.all()
    for before, after in itertools.pairwise(seen):
        assert not before.done.all()
        for row, length in enumerate(before.lengths):
            assert after.lengths[row] >= length
            np.testing.assert_array_equal(before.tokens[row, :length], after.tokens[row, :length])
    if most > every:
        assert len(seen) > 1
