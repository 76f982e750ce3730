"""An exported adapter in peft computes what the adapters compute here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_tiny

from r1jax import models
from r1jax.models import lora
from r1jax.models.hf.peft import save_adapter

pytestmark = pytest.mark.oracle
RANK, ALPHA = 3, 12.0


@pytest.mark.parametrize("targets", [tuple(lora.TARGETS), ("query", "value"), ("out", "down")])
@pytest.mark.parametrize("kind", [{"qkv_bias": True}, {"qk_norm": True}, {}])
def test_logits_are_those_of_peft(targets, kind, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")

    module, params = make_tiny(**kind)
    adapters = lora.init(params, rank=RANK, targets=targets, seed=0)
    rng = np.random.default_rng(1)
    adapters = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), adapters
    )
    models.save_hf(module, params, tmp_path / "base")
    base = str(tmp_path / "base")
    save_adapter(module, adapters, tmp_path / "adapter", rank=RANK, alpha=ALPHA, base=base)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    tokens = rng.integers(0, module.config.vocab_size, (2, 20))
    with torch.no_grad():
        wanted = adapted(torch.tensor(tokens)).logits.numpy()
        plain = adapted.unload()(torch.tensor(tokens)).logits.numpy()
    joined = lora.join(params, adapters, ALPHA / RANK)
    logits = module.apply({"params": joined}, jnp.asarray(tokens, jnp.int32))
    assert abs(wanted - plain).max() > 0.1
    np.testing.assert_allclose(logits, wanted, atol=5e-5)
    # And the merged export is the same model.
    models.save_hf(module, joined, tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        np.testing.assert_allclose(merged(torch.tensor(tokens)).logits.numpy(), logits, atol=5e-5)
