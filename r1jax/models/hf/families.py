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
}
