"""Reward models of transformers give the same rewards here, and those from here there."""

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import models
from r1jax.models import heads

pytestmark = pytest.mark.oracle

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "num_labels": 1,
}


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification"])
@pytest.mark.parametrize("tied", [False, True])
def test_rewards_are_those_of_transformers(family, kind, tied, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    config = getattr(transformers, f"{family}Config")(**SIZES, tie_word_embeddings=tied)
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}For{kind}")(config).eval()
    if kind == "TokenClassification":
        torch.nn.init.normal_(theirs.score.bias)
    theirs.save_pretrained(tmp_path / "theirs")
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 40, (3, 12))
    lengths = [12, 7, 9]
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    inside = tokens > 0

    def logits_of(model):
        with torch.no_grad():
            found = model(torch.tensor(tokens), attention_mask=torch.tensor(inside.astype(int)))
        return found.logits.numpy()

    wanted = logits_of(theirs)
    module, params = models.load(tmp_path / "theirs")
    segments = jnp.asarray(inside, jnp.int32)
    scores = heads.scores(module, params, jnp.asarray(tokens, jnp.int32), None, segments)
    if kind == "TokenClassification":
        np.testing.assert_allclose(scores[inside], wanted[..., 0][inside], atol=2e-5)
    else:
        ends = heads.sequence_scores(scores, segments, most=1)
        np.testing.assert_allclose(ends, wanted, atol=2e-5)
    assert np.std(wanted) > 0.1

    models.save_hf(module, params, tmp_path / "ours")
    back = getattr(transformers, f"{family}For{kind}").from_pretrained(tmp_path / "ours").eval()
    back.config.pad_token_id = 0
    np.testing.assert_array_equal(logits_of(back), wanted)
