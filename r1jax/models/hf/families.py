"""The architectures that are supported, as data: what sets each apart, by fields of its
`config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    model_type: str
    model: Fields  # ModelConfig fields that the architecture itself decides
    defaults: Fields  # what transformers takes where the file says nothing
    fixed: Fields  # fields with the one value that is supported
    windowed: bool = False  # it has the fields of sliding windows
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # ours -> the file's
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)  # second names -> first
    zero_if_null: frozenset[str] = frozenset()  # fields where null is not the default, but none
    inert: frozenset[str] = frozenset()  # fields that mean nothing beside what is fixed


_COMMON = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu"}
_PLAIN = {"hidden_act": "silu", "attention_dropout": 0.0, "partial_rotary_factor": 1.0}
_QWEN = {**_COMMON, "max_position_embeddings": 32768, "num_key_value_heads": 32}
_MOE = {
    "moe.chosen": "num_experts_per_tok",
    "moe.ffn": "moe_intermediate_size",
    "moe.normalized": "norm_topk_prob",
}

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(
        model_type="llama",
        model={},
        defaults={**_COMMON, "max_position_embeddings": 2048},
        fixed={**_PLAIN, "attention_bias": False, "mlp_bias": False},
    ),
    "Qwen2ForCausalLM": Family(
        model_type="qwen2",
        model={"qkv_bias": True},
        defaults=_QWEN,
        fixed=_PLAIN,
        windowed=True,
    ),
    "Qwen3ForCausalLM": Family(
        model_type="qwen3",
        model={"qk_norm": True},
        defaults={**_QWEN, "head_dim": 128},
        fixed={**_PLAIN, "attention_bias": False},
        windowed=True,
    ),
    "Qwen3MoeForCausalLM": Family(
        model_type="qwen3_moe",
        model={"qk_norm": True},
        defaults={
            **_QWEN,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": (),
        },
        fixed={**_PLAIN, "attention_bias": False, "use_sliding_window": False},
        parts={"moe.experts": "num_experts", **_MOE},
        aliases={"num_local_experts": "num_experts"},
        inert=frozenset({"sliding_window", "max_window_layers"}),
    ),
    "DeepseekV3ForCausalLM": Family(
        model_type="deepseek_v3",
        model={"moe.score": "sigmoid", "moe.selection_bias": True},
        defaults={
            **_COMMON,
            "max_position_embeddings": 4096,
            "moe_intermediate_size": 2048,
            "n_shared_experts": 1,
            "n_routed_experts": 256,
            "routed_scaling_factor": 2.5,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "n_group": 8,
            "topk_group": 4,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 3,
            "norm_topk_prob": True,
            "rope_interleave": True,
            "num_nextn_predict_layers": 1,
        },
        fixed={
            **_PLAIN,
            "attention_bias": False,
            "moe_layer_freq": 1,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        },
        parts={
            "moe.experts": "n_routed_experts",
            **_MOE,
            "moe.shared": "n_shared_experts",
            "moe.scale": "routed_scaling_factor",
            "moe.groups": "n_group",
            "moe.chosen_groups": "topk_group",
            "mla.kv_rank": "kv_lora_rank",
            "mla.query_rank": "q_lora_rank",
            "mla.rope_dim": "qk_rope_head_dim",
            "mla.value_dim": "v_head_dim",
            "mla.interleaved": "rope_interleave",
        },
        aliases={"num_mtp_layers": "num_nextn_predict_layers"},
        zero_if_null=frozenset({"q_lora_rank"}),
        # Head sizes that follow from others, and losses and layouts of a training.
        inert=frozenset({"head_dim", "qk_head_dim", "aux_loss_alpha", "seq_aux", "ep_size"}),
    ),
}
