"""Checkpoints in and out: the models that transformers computed with, bytes kept, nothing half."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, make_tiny

from r1jax import mesh as mesh_lib
from r1jax import models, rollout
from r1jax.errors import UserError
from r1jax.models.axes import logical_axes
from r1jax.models.config import MlaConfig, MoeConfig
from r1jax.models.hf import files, save
from r1jax.ops.rope import RopeScaling
from r1jax.ops.sampling import SamplingParams

# Checkpoints with what transformers makes of them; tests/oracle/test_models.py writes them.
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "models"
CASES = sorted(path.name for path in GOLDEN.iterdir())
every_case = pytest.mark.parametrize("case", CASES)
# A plain layout, windows, experts in some layers, latent attention: the others decode as these do.
DECODED = {"llama3.1", "qwen2_window", "qwen3_moe_mixed", "deepseek_v3"}

apply = jax.jit(
    lambda module, params, tokens: module.apply({"params": params}, tokens), static_argnums=0
)


leaves = jax.tree_util.tree_leaves_with_path


def equal_trees(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@every_case
def test_logits_are_those_of_transformers(case):
    wanted = np.load(GOLDEN / case / "wanted.npz")
    module, params = models.load(GOLDEN / case, dtype="float32")
    logits = apply(module, params, jnp.asarray(wanted["tokens"], jnp.int32))
    np.testing.assert_allclose(logits, wanted["logits"], atol=2e-5)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in DECODED else pytest.mark.slow) for c in CASES]
)
def test_greedy_responses_are_those_of_transformers(case):
    """The decoding path: windows, scaled RoPE and all."""
    wanted = np.load(GOLDEN / case / "wanted.npz")
    module, params = models.load(GOLDEN / case, dtype="float32")
    rollouts = rollout.generate(
        module,
        params,
        wanted["tokens"].tolist(),
        sampling=SamplingParams(temperature=0.0, max_tokens=wanted["greedy"].shape[1]),
        samples_per_prompt=1,
        seed=0,
    )
    np.testing.assert_array_equal(rollouts.tokens, wanted["greedy"])


@every_case
def test_what_was_loaded_is_saved_bit_for_bit(case, tmp_path):
    module, params = models.load(GOLDEN / case)
    wide = [path[-1].key for path, leaf in leaves(params) if leaf.dtype != jnp.bfloat16]
    assert set(wide) <= {"router_bias"}  # kept in float32, as in DeepSeek's files
    assert module.config.compute_dtype == jnp.bfloat16
    models.save_hf(module, params, tmp_path / "out", shard_bytes=4000)
    assert len(list(tmp_path.glob("out/*.safetensors"))) > 2
    before, after = files.open_folder(GOLDEN / case), files.open_folder(tmp_path / "out")
    assert set(before) == set(after)
    for name in before:
        assert before[name].code == after[name].code
        assert before[name].array().tobytes() == after[name].array().tobytes()
    again, params_again = models.load(tmp_path / "out")
    assert again == module
    equal_trees(params, params_again)


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_every_source_dtype_becomes_every_dtype(source, wanted, tmp_path):
    module, params = make_tiny()
    models.save_hf(module, params, tmp_path / "out", dtype=source)
    _, loaded = models.load(tmp_path / "out", dtype=wanted)
    equal_trees(loaded, jax.tree.map(lambda leaf: leaf.astype(source).astype(wanted), params))


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 1, 8), (2, 2, 2)])
def test_split_over_devices_nothing_changes(shape):
    mesh = mesh_lib.make_mesh(*shape)
    _, whole = models.load(GOLDEN / "llama2")
    _, split = models.load(GOLDEN / "llama2", mesh=mesh)
    equal_trees(whole, split)
    wanted = mesh_lib.param_shardings(mesh, whole, logical_axes(whole))
    jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding or 1 / 0, split, wanted)
    sizes = {leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in jax.tree.leaves(split)}
    assert True in sizes


def test_split_arrays_are_saved_as_whole_ones_are(tmp_path):
    module, split = models.load(GOLDEN / "qwen2.5_yarn", mesh=mesh_lib.make_mesh(2, 2, 2))
    models.save_hf(module, split, tmp_path / "out")
    before, after = files.open_folder(GOLDEN / "qwen2.5_yarn"), files.open_folder(tmp_path / "out")
    for name in before:
        assert before[name].array().tobytes() == after[name].array().tobytes()


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def empty_off_by_one(shape, dtype):
    """A CPU device takes an aligned buffer over as it is: no copy, so nothing to count."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + 64 + 4, np.uint8)
    start = -room.ctypes.data % 64 + 4
    return room[start : start + size].view(dtype).reshape(shape)


@pytest.mark.parametrize("fsdp", [1, 8])
def test_loading_holds_one_shard_at_a_time(fsdp, tmp_path, monkeypatch):
    module, params = make_tiny(width=256, ffn=2048, layers=4)
    models.save_hf(module, params, tmp_path / "out", dtype="float16")
    mesh = mesh_lib.make_mesh(1, fsdp, 1)
    # Once before it is measured: imports and caches are not what loading holds.
    models.load(tmp_path / "out", mesh=mesh)
    monkeypatch.setattr(np, "empty", empty_off_by_one)
    peak = peak_of(lambda: models.load(tmp_path / "out", dtype="float32", mesh=mesh))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params)) // fsdp
    # The rest is what tracing the model for its shapes takes, whatever its size.
    assert largest <= peak < largest + 800_000


def test_saving_holds_one_tensor_of_one_layer(tmp_path):
    module, params = make_tiny(width=256, ffn=2048, layers=8)
    models.save_hf(module, params, tmp_path / "first")
    peak = peak_of(lambda: models.save_hf(module, params, tmp_path / "second"))
    one = params["layers"]["block"]["gate"][0].nbytes
    assert peak < 3 * one + 500_000


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


# What is not said here is said by DeepSeek-V3's own config.json, and the rest means no maths.
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
    "num_key_value_heads": 4,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
}
QWEN3_MOE = {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2}


def read(**changes):
    return models.hf.config.read_config({**CONFIG, **changes}, where="config.json")


def test_what_a_config_leaves_out_is_what_transformers_assumes():
    config = read()
    assert (config.kv_heads, config.head_dim, config.rope_theta) == (4, 4, 10_000.0)
    assert (config.norm_eps, config.tied_head, config.max_positions) == (1e-6, False, 2048)
    assert read(architectures=["Qwen3ForCausalLM"], num_key_value_heads=2).head_dim == 128
    assert read(architectures=None, model_type="qwen2", num_key_value_heads=2).qkv_bias


def test_both_forms_of_rope_fields_are_read():
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3 |= {"original_max_position_embeddings": 8192, "rope_type": "llama3"}
    older = read(rope_theta=5e5, rope_scaling=llama3)
    newer = read(rope_parameters={**llama3, "rope_theta": 5e5})
    assert older == newer
    assert older.rope_scaling == RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)
    assert read(rope_scaling={"type": "linear", "factor": 2}).rope_scaling.factor == 2.0


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"use_sliding_window": False, "sliding_window": 9, "max_window_layers": 0}, ()),
        ({"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, (0, 9)),
        ({"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 5}, ()),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 9,
                "max_window_layers": 2,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (9, 0),
        ),
    ],
)
def test_window_fields_are_honoured(fields, windows):
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2}
    assert read(**qwen2, **fields).windows == windows


def test_the_fields_of_deepseek_v3():
    config = read(**DEEPSEEK)
    assert config.moe == MoeConfig(
        256, 8, 2048, 1, (0,), "sigmoid", True, True, scale=2.5, groups=8, chosen_groups=4
    )
    assert config.mla == MlaConfig(512, 1536, rope_dim=64, value_dim=128)
    assert (config.head_dim, config.kv_heads, config.cache_dims) == (192, 4, (1, 576, 0))
    assert config.rope_scaling.magnitude == 1.0
    assert config.rope_scaling.score_gain == pytest.approx(1.3689**2, abs=1e-4)
    assert read(**{**DEEPSEEK, "q_lora_rank": None}).mla.query_rank == 0
    del (without := dict(DEEPSEEK))["q_lora_rank"]
    assert read(**without).mla.query_rank == 1536  # as transformers assumes


def test_mtp_is_taken_from_the_config():
    assert read(**DEEPSEEK).mtp  # as transformers assumes
    assert not read(**DEEPSEEK, num_nextn_predict_layers=0).mtp
    assert read(**DEEPSEEK, num_mtp_layers=1).mtp


@pytest.mark.parametrize(
    ("fields", "dense"),
    [
        ({}, ()),
        ({"decoder_sparse_step": 2}, (0, 2)),
        ({"mlp_only_layers": [1, 3]}, (1, 3)),
        ({"mlp_only_layers": [1], "decoder_sparse_step": 3}, (0, 1, 3)),
    ],
)
def test_which_layers_are_sparse(fields, dense):
    config = read(**QWEN3_MOE, num_hidden_layers=4, head_dim=8, **fields)
    assert config.moe.dense_layers == dense
    assert (config.moe.ffn, config.moe.normalized) == (768, False)  # as transformers assumes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, ["GemmaForCausalLM", "Qwen3ForCausalLM"]),
        ({"architectures": [], "model_type": "mamba"}, ["mamba", "LlamaForCausalLM"]),
        ({"attention_bias": True}, ["attention_bias=True"]),
        ({"mlp_bias": True}, ["mlp_bias=True"]),
        ({"hidden_act": "gelu"}, ["hidden_act='gelu'"]),
        ({"attention_dropout": 0.1}, ["attention_dropout=0.1"]),
        ({"quantization_config": {"quant_method": "fp8"}}, ["quantization_config", "block"]),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, ["quantization_config"]),
        ({"sliding_window": 128}, ["sliding_window=128"]),
        ({"logit_soft_cap": 30.0}, ["logit_soft_cap=30.0"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["dynamic", "llama3"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, ["llama3", "needs"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "odd": 1}}, ["odd"]),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, ["factor"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ({"hidden_size": 18}, ["hidden_size=18", "num_attention_heads=4"]),
        ({"num_key_value_heads": 3}, ["kv_heads=3"]),
        ({"vocab_size": "24"}, ["vocab_size", "'24'"]),
        ({"num_experts": 4}, ["num_experts=4"]),
        ({**QWEN3_MOE, "num_experts": 2.5}, ["num_experts=2.5"]),
        ({**QWEN3_MOE, "norm_topk_prob": 1}, ["norm_topk_prob=1"]),
        ({**QWEN3_MOE, "num_experts_per_tok": 5}, ["chosen=5"]),
        ({**QWEN3_MOE, "use_sliding_window": True}, ["use_sliding_window=True"]),
        ({**QWEN3_MOE, "decoder_sparse_step": 0}, ["decoder_sparse_step=0"]),
        ({**QWEN3_MOE, "n_shared_experts": 1}, ["n_shared_experts=1"]),
        ({**DEEPSEEK, "scoring_func": "softmax"}, ["scoring_func='softmax'"]),
        ({**DEEPSEEK, "num_nextn_predict_layers": 2}, ["num_nextn_predict_layers=2"]),
        ({**DEEPSEEK, "topk_method": "greedy"}, ["topk_method='greedy'"]),
        ({**DEEPSEEK, "moe_layer_freq": 2}, ["moe_layer_freq=2"]),
        ({**DEEPSEEK, "num_key_value_heads": 2}, ["kv_heads=2"]),
        ({**DEEPSEEK, "kv_lora_rank": None, "n_group": 7}, ["groups=7"]),
        ({**DEEPSEEK, "v_head_dim": "128"}, ["v_head_dim='128'"]),
        ({**DEEPSEEK, "attention_bias": True}, ["attention_bias=True"]),
        ({"kv_lora_rank": 8}, ["kv_lora_rank=8"]),
        ({"hidden_size": None}, ["hidden_size"]),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(changes, words):
    with pytest.raises(UserError) as caught:
        read(**changes)
    for word in ["config.json", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "llama3.1", tmp_path / "model")


def edit(path, change):
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def rewrite(folder, change):
    """The weights again, after `change` of the dict of arrays."""
    path = folder / files.SINGLE
    arrays = {name: np.array(t.array()) for name, t in files.read_header(path).items()}
    change(arrays)
    about = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    files.write_file(path, about, arrays.__getitem__)


def cut(folder, keep):
    path = folder / files.SINGLE
    path.write_bytes(path.read_bytes()[:keep])


def corrupt(folder, at, text):
    path = folder / files.SINGLE
    data = bytearray(path.read_bytes())
    data[at : at + len(text)] = text
    path.write_bytes(data)


def make_sharded(folder):
    module, params = models.load(folder)
    models.save_hf(module, params, folder.with_name("sharded"), shard_bytes=4000)
    shutil.rmtree(folder)
    folder.with_name("sharded").rename(folder)


def without_a_shard(folder):
    make_sharded(folder)
    sorted(folder.glob("model-*"))[1].unlink()


def index_too_long(folder):
    make_sharded(folder)
    name = sorted(folder.glob("model-*"))[0].name
    edit(folder / files.INDEX, lambda index: index["weight_map"].update(ghost=name))


NORM, GATE = "model.norm.weight", "model.layers.0.mlp.gate_proj.weight"
BROKEN = {
    "missing": (lambda f: rewrite(f, lambda a: a.pop(GATE)), ["missing", GATE]),
    "extra": (lambda f: rewrite(f, lambda a: a.update(odd=a[NORM])), ["not part", "odd"]),
    "shape": (
        lambda f: rewrite(f, lambda a: a.update({NORM: a[NORM][:-1]})),
        [NORM, "[47] instead of [48]"],
    ),
    "integers": (lambda f: corrupt(f, 8, b'{"a":{"dtype":"I8"'), ["corrupt"]),
    "no bytes": (lambda f: cut(f, 0), ["truncated"]),
    "half a header": (lambda f: cut(f, 100), ["truncated"]),
    "one byte short": (lambda f: cut(f, -1), ["truncated"]),
    "header of noise": (lambda f: corrupt(f, 8, b"\xff\xfe"), ["corrupt", "header"]),
    "no shard": (without_a_shard, ["model-00002-of-", "not there"]),
    "index": (index_too_long, ["ghost"]),
    "no weights": (lambda f: (f / files.SINGLE).unlink(), ["no weights", files.SINGLE]),
    "pickles": (
        lambda f: (f / files.SINGLE).rename(f / "pytorch_model.bin"),
        ["pickle", "save_pretrained"],
    ),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "no such file"]),
    "config of noise": (lambda f: (f / "config.json").write_text("{"), ["config.json", "JSON"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_checkpoints_end_in_one_line_that_says_what(fault, folder):
    break_it, words = BROKEN[fault]
    break_it(folder)
    with pytest.raises(UserError) as caught:
        models.load(folder)
    for word in [str(folder), *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_experts_are_listed_one_by_one(tmp_path):
    folder = shutil.copytree(GOLDEN / "deepseek_v3", tmp_path / "model")
    expert = "model.layers.1.mlp.experts.{}.up_proj.weight"
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    rewrite(folder, lambda arrays: arrays.update({expert.format(8): arrays[expert.format(7)]}))
    with pytest.raises(UserError, match=f"not part of this model: {expert.format(8)}"):
        models.load(folder)
    rewrite(folder, lambda arrays: [arrays.pop(expert.format(8)), arrays.pop(bias)])
    with pytest.raises(UserError, match=f"missing: {bias}$"):
        models.load(folder)
    folder = shutil.copytree(GOLDEN / "deepseek_v3", tmp_path / "other")
    rewrite(folder, lambda a: a.update({expert.format(3): a[expert.format(3)][:-1]}))
    with pytest.raises(UserError, match=r"experts.3.up_proj.weight \[7, 48\] instead of \[8, 48\]"):
        models.load(folder)


def test_a_repeated_tied_head_is_accepted_only_if_it_is_the_same(tmp_path):
    folder = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "model")
    embedding = "model.embed_tokens.weight"
    rewrite(folder, lambda arrays: arrays.update({"lm_head.weight": arrays[embedding]}))
    models.load(folder)
    rewrite(folder, lambda arrays: arrays.update({"lm_head.weight": -arrays[embedding]}))
    with pytest.raises(UserError, match="tie_word_embeddings"):
        models.load(folder)


def test_frequencies_of_old_exports_are_not_missed(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda arrays: arrays.update({name: np.ones(4, np.float32)}))
    models.load(folder)


def test_layers_of_different_dtypes_need_a_choice(folder):
    rewrite(folder, lambda arrays: arrays.update({GATE: arrays[GATE].astype(np.float32)}))
    with pytest.raises(UserError, match="gate_proj"):
        models.load(folder)
    models.load(folder, dtype="float32")


@pytest.mark.parametrize("name", ["owner/model", "no/such/folder", "nothing"])
def test_a_name_that_is_nowhere_says_which_files_are_wanted(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError) as caught:
        models.load(name)
    words = ["config.json", files.SINGLE, "./owner/model"] if name == "owner/model" else [name]
    for word in words:
        assert word in str(caught.value)


def test_a_hub_id_is_fetched_by_the_hub_client(monkeypatch):
    class Client:
        def snapshot_download(self, hub_id, *, allow_patterns):
            assert hub_id == "owner/model"
            assert "*.safetensors" in allow_patterns
            return str(GOLDEN / "llama2")

    monkeypatch.setitem(sys.modules, "huggingface_hub", Client())
    equal_trees(models.load("owner/model")[1], models.load(GOLDEN / "llama2")[1])


def test_a_hub_that_cannot_be_reached_ends_in_one_line(monkeypatch):
    class Client:
        def snapshot_download(self, hub_id, *, allow_patterns):
            raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", Client())
    with pytest.raises(UserError, match="no route") as caught:
        models.load("owner/model")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_no_half_folder(monkeypatch, tmp_path):
    real, written = files.write_file, []

    def write_until_full(path, tensors, fetch):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, tensors, fetch)

    monkeypatch.setattr(save.files, "write_file", write_until_full)
    module, params = make_tiny()
    with pytest.raises(UserError, match="disk is full"):
        models.save_hf(module, params, tmp_path / "out", shard_bytes=4000)
    assert written
    assert not os.listdir(tmp_path)


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path):
    module, params = make_tiny()
    (tmp_path / "out").mkdir()
    models.save_hf(module, params, tmp_path / "out")
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="is there already"):
        models.save_hf(module, params, tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": True, "qk_norm": True},
        {"windows": (0, 4)},
        {"qk_norm": True, "windows": (3, 4)},
        {"moe": MoeConfig(4, chosen=2)},
        {"qk_norm": True, "moe": MoeConfig(4, chosen=2, shared=1)},
    ],
)
def test_a_model_of_no_family_cannot_be_exported(changes, tmp_path):
    module, params = make_tiny(**changes)
    with pytest.raises(UserError, match="cannot be exported"):
        models.save_hf(module, params, tmp_path / "out")
    assert not os.listdir(tmp_path)


TOGETHER = """
import pathlib, sys
import jax
from r1jax import mesh as mesh_lib, models
from r1jax.errors import UserError
number, port, folder, golden = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
mesh = mesh_lib.make_mesh(1, 2, 2)
module, params = models.load(golden, mesh=mesh)
with mesh_lib.use(mesh):
    models.save_hf(module, params, folder, shard_bytes=4000)
    try:
        models.save_hf(module, params, folder)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_processes_that_share_a_model_write_one_folder(tmp_path):
    """All of it is whole, and when the first cannot write, none waits for it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = [str(port), str(tmp_path / "out"), str(GOLDEN / "qwen3_moe")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(number), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "is there already" in said[0][0]
    assert "process 0 could not write" in said[1][0]
    before, after = files.open_folder(GOLDEN / "qwen3_moe"), files.open_folder(tmp_path / "out")
    assert set(before) == set(after)
    for name in before:
        assert before[name].array().tobytes() == after[name].array().tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class TokenizerStandIn:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, None

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def test_a_tokenizer_and_its_ids_go_along(tmp_path):
    module, params = make_tiny()
    models.save_hf(module, params, tmp_path / "out", tokenizer=TokenizerStandIn())
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    for name in ("config.json", "generation_config.json"):
        fields = files.read_json(tmp_path / "out" / name)
        assert (fields["bos_token_id"], fields["eos_token_id"]) == (1, 2)
        assert "pad_token_id" not in fields
    with pytest.raises(UserError, match="leave tokenizer out"):
        models.save_hf(module, params, tmp_path / "other", tokenizer=object())


def test_what_came_with_a_model_goes_with_it(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 4], "top_p": 0.9}')
    (folder / "notes.txt").write_text("not wanted")
    edit(folder / "config.json", lambda fields: fields.update(eos_token_id=[3, 4]))
    module, params = models.load(folder)
    out = tmp_path / "out"
    models.save_hf(module, params, out, like=folder)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert files.read_json(out / "config.json")["eos_token_id"] == [3, 4]
    assert not (out / "notes.txt").exists()
    assert models.load(out)[0].config == module.config


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("linear", 4.0),
        RopeScaling("llama3", 32.0, 8192, 1.0, 4.0),
        RopeScaling("yarn", 4.0, 32768, magnitude=1.25, truncate=False, beta_fast=16.0),
        RopeScaling("yarn", 40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
    ],
)
def test_scaled_rope_survives_an_export(scaling, tmp_path):
    module, params = make_tiny(rope_scaling=scaling, max_positions=99, rope_theta=7e5)
    models.save_hf(module, params, tmp_path / "out")
    assert models.load(tmp_path / "out")[0] == module


def test_windows_must_be_one_for_each_layer():
    with pytest.raises(ValueError, match=r"model.windows=\(4,\)"):
        make_tiny(windows=(4,))
    assert make_tiny(windows=(0, 4))[0].config.layer_windows == (None, 4)
    assert TINY.layer_windows == (None, None)
