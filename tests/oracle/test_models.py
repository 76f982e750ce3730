"""Tiny random models of every family, in transformers 5.23.0 and here.

    pip install torch==2.13.0 transformers==5.23.0 -e '.[test]'
    python -m pytest -m oracle tests/oracle/test_models.py
    PYTHONPATH=tests python tests/oracle/test_models.py     # writes tests/golden/models

The golden files, a checkpoint and its logits for each case, are what tests/models/test_hf.py holds
r1jax to where there is no torch.
"""

import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import models, rollout
from r1jax.models.hf import files, names
from r1jax.ops.logprobs import token_logprobs
from r1jax.ops.sampling import SamplingParams

pytestmark = pytest.mark.oracle
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "models"
VOCABULARY, POSITIONS, GENERATED = 83, 2048, 64


def shape(heads, kv_heads, *, width=48, head_dim=None, tied=False, **rest):
    head_dim = {} if head_dim is None else {"head_dim": head_dim}
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
        **head_dim,
        **rest,
    }


def rope(kind, *, theta=10_000.0, **rest):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **rest}}


LLAMA3_ROPE = rope(
    "llama3",
    theta=500_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=256,
)


def moe(experts, chosen, **rest):
    return {
        "num_experts": experts,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": 8,  # in bytes of bfloat16 a multiple of 16, for torch
        **rest,
    }


def mla(heads, *, queries, experts, groups, chosen_groups, chosen, dense, **rest):
    return {
        "hidden_size": 48,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": queries,
        "kv_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": experts,
        "n_group": groups,
        "topk_group": chosen_groups,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": 8,
        "first_k_dense_replace": dense,
        "num_nextn_predict_layers": 0,
        **rest,
    }


DEEPSEEK_ROPE = rope(
    "yarn",
    factor=40.0,
    original_max_position_embeddings=256,
    mscale=1.0,
    mscale_all_dim=1.0,
    beta_fast=32,
    beta_slow=1,
)
YARN = rope("yarn", theta=1e6, factor=4.0, original_max_position_embeddings=512)
# Fields beside the sizes below; original positions are short, so that 2048 tokens reach past them.
CASES = {
    "llama2": ("llama", shape(3, 3)),
    "llama3": ("llama", shape(8, 1, width=64, **rope("default", theta=500_000.0))),
    "llama3.1": ("llama", shape(6, 2, **LLAMA3_ROPE)),
    "llama3.2_tied": ("llama", shape(4, 2, head_dim=24, tied=True, **LLAMA3_ROPE)),
    "llama_linear": ("llama", shape(4, 4, **rope("linear", factor=4.0))),
    "qwen2_tied": ("qwen2", shape(7, 1, width=56, tied=True, **rope("default", theta=1e6))),
    "qwen2.5_yarn": ("qwen2", shape(6, 3, **YARN)),
    "qwen2_window": (
        "qwen2",
        shape(4, 2, use_sliding_window=True, sliding_window=20, max_window_layers=1),
    ),
    "qwen3_tied": ("qwen3", shape(4, 2, head_dim=32, tied=True, **rope("default", theta=1e6))),
    "qwen3": ("qwen3", shape(8, 1, width=40, head_dim=16)),
    "qwen3_layer_types": (
        "qwen3",
        shape(
            4,
            2,
            head_dim=16,
            use_sliding_window=True,
            sliding_window=13,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
    "qwen3_moe": ("qwen3_moe", shape(4, 2, head_dim=16, **moe(8, 3, norm_topk_prob=True))),
    "qwen3_moe_mixed": (
        "qwen3_moe",
        shape(6, 1, head_dim=16, tied=True, **moe(6, 2, decoder_sparse_step=2), **YARN),
    ),
    "qwen3_moe_top1": (
        "qwen3_moe",
        shape(3, 3, head_dim=16, **moe(5, 1, mlp_only_layers=[0, 2])),
    ),
    "deepseek_v3": (
        "deepseek_v3",
        mla(
            4,
            queries=20,
            experts=8,
            groups=4,
            chosen_groups=2,
            chosen=3,
            dense=1,
            **DEEPSEEK_ROPE,
        ),
    ),
    "deepseek_v3_plain": (
        "deepseek_v3",
        mla(
            3,
            queries=None,
            experts=6,
            groups=1,
            chosen_groups=1,
            chosen=2,
            dense=0,
            n_shared_experts=2,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            rope_interleave=False,
            tie_word_embeddings=True,
        ),
    ),
}


# Latent attention has two matrices in a row where others have one.
SPREAD = {kind: 1.0 if kind == "deepseek_v3" else 1.5 for kind, _ in CASES.values()}
GOLDEN_CASES = [
    "llama2",
    "llama3.1",
    "llama3.2_tied",
    "qwen2_tied",
    "qwen2.5_yarn",
    "qwen2_window",
    "qwen3",
    "qwen3_tied",
    "qwen3_layer_types",
    "qwen3_moe",
    "qwen3_moe_mixed",
    "deepseek_v3",
    "deepseek_v3_plain",
]


def make_theirs(case, *, layers=3, vocabulary=VOCABULARY, ffn=72, seed=0):
    """A transformers model with weights of a size that makes every part matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, fields = CASES[case]
    config = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        **fields,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    fill(model, kind, seed=seed)
    return model


def fill(model, kind, *, seed, but=None):
    """Random weights, but not those it shares with another model."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shared = set() if but is None else {id(parameter) for parameter in but.parameters()}
    with torch.no_grad():
        kept = model.state_dict()
        buffers = [(name, b) for name, b in model.named_buffers() if name in kept]
        for name, parameter in [*model.named_parameters(), *buffers]:
            if id(parameter) in shared:
                continue
            middle = 1.0 if "norm" in name else 0.0
            spread = 0.3 if parameter.ndim == 1 else SPREAD[kind] * parameter.shape[-1] ** -0.5
            parameter.copy_(middle + spread * torch.randn(parameter.shape, generator=generator))


def random_tokens(rows, length, vocabulary=VOCABULARY, seed=0):
    return np.random.default_rng(seed).integers(0, vocabulary, (rows, length))


def logits_of(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def greedy_of(model, prompt, count):
    import torch

    out = model.generate(
        torch.tensor([prompt]), do_sample=False, min_new_tokens=count, max_new_tokens=count
    )
    return out[0, len(prompt) :].numpy()


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(their model, our module and parameters, the folder between them)"""
    warnings.simplefilter("ignore")
    theirs = make_theirs(request.param)
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return theirs, *models.load(folder), folder


apply = jax.jit(
    lambda module, params, tokens: module.apply({"params": params}, tokens), static_argnums=0
)


def test_logits_at_2048_positions(pair):
    theirs, module, params, _ = pair
    tokens = random_tokens(1, POSITIONS)
    wanted = logits_of(theirs, tokens)
    assert np.std(wanted) > 0.5
    gap = np.abs(apply(module, params, tokens) - wanted).max()
    print(f"logits: max |gap| {gap:.1e}, std {np.std(wanted):.2f}")
    assert gap <= 2e-4


def their_gradients(model, tokens, targets):
    import torch

    model.zero_grad()
    logits = model(torch.tensor(tokens)).logits
    torch.nn.functional.cross_entropy(logits[0], torch.tensor(targets[0])).backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return dict(of_files(grads))


def of_files(tensors):
    """Models hold all experts of a layer in one tensor, files hold each matrix by itself."""
    for name, tensor in tensors.items():
        if ".experts." not in name:
            yield name, tensor
            continue
        for expert, both in enumerate(tensor):
            matrices = {"down_proj": both}
            if name.endswith("gate_up_proj"):
                matrices = dict(zip(("gate_proj", "up_proj"), np.split(both, 2), strict=True))
            for matrix, values in matrices.items():
                yield f"{name.rpartition('.')[0]}.{expert}.{matrix}.weight", values


def our_gradients(module, params, tokens, targets):
    """By the names of the checkpoint's tensors, in their shapes."""

    tokens, targets = jnp.asarray(tokens), jnp.asarray(targets)

    def loss(params):
        hidden = module.apply({"params": params}, tokens, method="hidden")
        head = models.transformer.head_kernel(module.config, params)
        return -jnp.mean(token_logprobs(hidden, head, targets)[0])

    grads = jax.jit(jax.grad(loss))(params)
    leaves = {names.path_of(p): g for p, g in jax.tree_util.tree_leaves_with_path(grads)}
    return {
        name: piece.source.to_tensor(np.asarray(leaves[piece.path][piece.place]))
        for name, piece in names.pieces(params).items()
    }


def test_gradients(pair):
    theirs, module, params, _ = pair
    tokens, targets = random_tokens(1, 300), random_tokens(1, 300, seed=1)
    wanted = their_gradients(theirs, tokens, targets)
    found = our_gradients(module, params, tokens, targets)
    untrained = {name for name in found if name.endswith("e_score_correction_bias")}
    assert set(found) == set(wanted) | untrained
    assert not any(found[name].any() for name in untrained)
    norm = np.linalg.norm  # 0 for both at an expert that no token chose
    gaps = {n: norm(found[n] - g) / max(norm(g), 1e-30) for n, g in wanted.items()}
    worst = max(gaps, key=gaps.get)
    print(f"gradients: worst relative error {gaps[worst]:.1e} at {worst}")
    assert gaps[worst] <= 1e-4


def test_balance_loss(pair):
    import torch

    theirs, module, params, _ = pair
    tokens = random_tokens(1, 300)
    if module.config.moe.score != "softmax" or not module.config.moe.experts:
        pytest.skip("a loss of Qwen3-MoE only")
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens), output_router_logits=True).aux_loss
    _, routing = module.apply({"params": params}, jnp.asarray(tokens), method="hidden_and_routing")
    found = models.moe.balance_loss(module.config.moe, routing)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def with_mtp(tmp_path_factory):
    """(their model, their MTP module, our module and parameters)"""
    from transformers.modeling_layers import MtpModel

    warnings.simplefilter("ignore")
    theirs = make_theirs("deepseek_v3")
    mtp = MtpModel(theirs, 1).eval()
    fill(mtp, "deepseek_v3", seed=1, but=theirs)
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    weights = {name: np.array(t.array()) for name, t in files.open_folder(folder).items()}
    for name, weight in of_files({n: w.numpy() for n, w in mtp.state_dict().items()}):
        if name.startswith("layers.0."):
            name = name.removeprefix("layers.0.").removeprefix("mtp_block.")
            name = name.replace("post_norm", "shared_head.norm")
            weights[f"model.layers.3.{name}"] = weight
    about = {name: (weight.shape, weight.dtype) for name, weight in weights.items()}
    files.write_file(folder / files.SINGLE, about, weights.__getitem__)
    settings = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", settings | {"num_nextn_predict_layers": 1})
    return theirs, mtp, *models.load(folder)


def test_mtp(with_mtp):
    import torch

    theirs, mtp, module, params = with_mtp
    tokens = random_tokens(2, 300)
    with torch.no_grad():
        last = theirs(torch.tensor(tokens[:, :-1]), output_hidden_states=True).hidden_states[-1]
        positions = torch.arange(299)[None].expand(2, -1)
        shifted = torch.tensor(tokens[:, 1:])
        wanted = mtp.forward_layer(0, last, positions, None, input_ids=shifted).numpy()
    inputs = jnp.asarray(tokens)
    hidden = module.apply({"params": params}, inputs[:, :-1], method="hidden")
    places = jnp.broadcast_to(jnp.arange(299)[None], (2, 299))
    inputs = (hidden, inputs[:, 1:], places, jnp.ones_like(places))
    found, _ = module.apply({"params": params}, *inputs, method="mtp_hidden")
    gap = np.abs(found - wanted).max()
    print(f"mtp: max |gap| {gap:.1e}, std {np.std(wanted):.2f}")
    assert gap <= 2e-4


def test_greedy_generation(pair):
    theirs, module, params, _ = pair
    prompts = [random_tokens(1, length, seed=length)[0].tolist() for length in (3, 17, 40)]
    sampling = SamplingParams(temperature=0.0, max_tokens=GENERATED)
    rollouts = rollout.generate(
        module, params, prompts, sampling=sampling, samples_per_prompt=1, seed=0
    )
    for row, prompt in enumerate(prompts):
        np.testing.assert_array_equal(rollouts.response(row), greedy_of(theirs, prompt, GENERATED))


def test_decoding_gives_the_logprobs_of_training(pair):
    _, module, params, _ = pair
    prompts = [random_tokens(1, length, seed=length)[0].tolist() for length in (3, 17, 40)]
    rollouts = rollout.generate(
        module,
        params,
        prompts,
        sampling=SamplingParams(max_tokens=GENERATED),
        samples_per_prompt=1,
        seed=0,
    )
    gaps = []
    for row, prompt in enumerate(prompts):
        tokens = np.concatenate([prompt, rollouts.response(row)])[None]
        logits = apply(module, params, tokens[:, :-1])
        logp = np.take_along_axis(jax.nn.log_softmax(logits)[0], tokens[0, 1:, None], axis=-1)
        gaps.append(np.abs(logp[len(prompt) - 1 :, 0] - rollouts.logp[row]).max())
    print(f"decoding: worst difference of a log-prob {max(gaps):.1e}")
    assert max(gaps) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_we_save_they_load(pair, tmp_path, dtype):
    before = stored_as(pair[0], dtype, tmp_path / "theirs")
    module, params = models.load(tmp_path / "theirs")
    assert params["embedding"].dtype == jnp.dtype(dtype)
    models.save_hf(module, params, tmp_path / "ours", shard_bytes=40_000)
    again = from_folder(tmp_path / "ours", "auto")
    assert again.dtype == before.dtype
    tokens = random_tokens(1, 64)
    np.testing.assert_array_equal(logits_of(again, tokens), logits_of(before, tokens))


def stored_as(model, dtype, folder):
    """The model with its weights rounded; `.to(dtype)` would round RoPE's frequencies too."""
    import torch

    weights = {name: w.to(getattr(torch, dtype)) for name, w in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights[names.HEAD]
    model.save_pretrained(folder, state_dict=weights)
    settings = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", settings | {"dtype": dtype})
    return from_folder(folder, "auto")


def from_folder(folder, dtype):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def write_golden():
    warnings.simplefilter("ignore")
    tokens = random_tokens(2, 24, vocabulary=29)
    for case in GOLDEN_CASES:
        layers = len(CASES[case][1].get("layer_types", "12"))
        model = make_theirs(case, layers=layers, vocabulary=29, ffn=24)
        stored_as(model, "bfloat16", GOLDEN / case)
        model = from_folder(GOLDEN / case, "float32")
        logits = logits_of(model, tokens)
        greedy = np.stack([greedy_of(model, row, 12) for row in tokens.tolist()])
        np.savez_compressed(
            GOLDEN / case / "wanted.npz",
            tokens=tokens.astype(np.uint8),
            logits=logits,
            greedy=greedy.astype(np.uint8),
        )


if __name__ == "__main__":
    write_golden()
