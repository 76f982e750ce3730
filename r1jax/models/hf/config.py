"""A Hugging Face `config.json` as a `ModelConfig`, and back.

Nothing that changes the maths is skipped over: a field is used, known to be harmless, or refused.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.hf.rope import read_rope, write_rope

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets an architecture apart from the others, as data."""

    model_type: str
    model: Fields  # ModelConfig fields that the architecture itself decides
    defaults: Fields  # what transformers takes where the file says nothing
    fixed: Fields  # fields with the one value that is supported
    windowed: bool  # it has the fields of sliding windows


_COMMON = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu"}
_PLAIN = {"hidden_act": "silu", "attention_dropout": 0.0, "partial_rotary_factor": 1.0}

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(
        model_type="llama",
        model={},
        defaults={**_COMMON, "max_position_embeddings": 2048},
        fixed={**_PLAIN, "attention_bias": False, "mlp_bias": False},
        windowed=False,
    ),
    "Qwen2ForCausalLM": Family(
        model_type="qwen2",
        model={"qkv_bias": True},
        defaults={**_COMMON, "max_position_embeddings": 32768, "num_key_value_heads": 32},
        fixed=_PLAIN,
        windowed=True,
    ),
    "Qwen3ForCausalLM": Family(
        model_type="qwen3",
        model={"qk_norm": True},
        defaults={
            **_COMMON,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "head_dim": 128,
        },
        fixed={**_PLAIN, "attention_bias": False},
        windowed=True,
    ),
}

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_USED = _names("""
    architectures model_type num_key_value_heads head_dim rms_norm_eps tie_word_embeddings
    max_position_embeddings rope_theta rope_scaling rope_parameters torch_dtype dtype
""") | set(_SIZES)
_WINDOW_FIELDS = _names("use_sliding_window sliding_window max_window_layers layer_types")
# How a model was made, is served or is written down; not what it computes.
KEPT = _names("""
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id initializer_range use_cache
""")
_HARMLESS = KEPT | _names("""
    _name_or_path transformers_version pretraining_tp auto_map _attn_implementation
    attn_implementation gradient_checkpointing is_encoder_decoder is_decoder
    decoder_start_token_id tokenizer_class prefix task_specific_params output_attentions
    output_hidden_states return_dict return_dict_in_generate output_scores torchscript use_bfloat16
    id2label label2id problem_type finetuning_task begin_suppress_tokens suppress_tokens
    bad_words_ids max_length min_length do_sample temperature top_k top_p typical_p num_beams
    num_beam_groups diversity_penalty length_penalty early_stopping no_repeat_ngram_size
    encoder_no_repeat_ngram_size repetition_penalty num_return_sequences
    exponential_decay_length_penalty remove_invalid_values forced_bos_token_id
    forced_eos_token_id chunk_size_feed_forward tf_legacy_loss unsloth_version unsloth_fixed
    model_max_length
""")


def read_config(fields: Fields, *, where: str, dtype: str = "float32") -> ModelConfig:
    """The model that a `config.json` describes; a UserError names what it cannot be."""
    family = FAMILIES[_architecture(fields, where)]
    _refuse_unsupported(fields, family, where)
    said = {name: value for name, value in fields.items() if value is not None}
    found = {**family.defaults, **said}
    absent = [name for name in _SIZES if name not in found]
    if absent:
        raise UserError(f"{where}: says nothing of {', '.join(absent)}")
    heads, width = found["num_attention_heads"], found["hidden_size"]
    sizes = {
        "vocab_size": found["vocab_size"],
        "layers": found["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "kv_heads": found.get("num_key_value_heads", heads),
        "head_dim": found["head_dim"] if "head_dim" in found else _share(width, heads, where),
        "ffn": found["intermediate_size"],
        "max_positions": found["max_position_embeddings"],
    }
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"{where}: {name} comes out as {size!r}, a whole number is wanted")
    theta, scaling = read_rope(fields, where=where, max_positions=sizes["max_positions"])
    try:
        return ModelConfig(
            **sizes,
            **family.model,
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=float(found["rms_norm_eps"]),
            tied_head=bool(found["tie_word_embeddings"]),
            windows=_read_windows(fields, sizes["layers"], where) if family.windowed else (),
            dtype=dtype,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _architecture(fields: Fields, where: str) -> str:
    named = fields.get("architectures") or []
    for name in named:
        if name in FAMILIES:
            return name
    of_type = {family.model_type: name for name, family in FAMILIES.items()}
    if not named and fields.get("model_type") in of_type:
        return of_type[fields["model_type"]]
    what = ", ".join(map(str, named)) or fields.get("model_type") or "none is named"
    raise UserError(
        f"{where}: architecture {what} is not supported; supported: {', '.join(FAMILIES)}"
    )


def _refuse_unsupported(fields: Fields, family: Family, where: str) -> None:
    known = _USED | _HARMLESS | (_WINDOW_FIELDS if family.windowed else frozenset())
    for name, value in fields.items():
        if value is None or name in known:
            continue
        if name in family.fixed:
            if value != family.fixed[name]:
                raise UserError(
                    f"{where}: {name}={value!r} is not supported for {family.model_type}, only "
                    f"{family.fixed[name]!r}"
                )
        elif value not in (False, 0, "", [], {}):
            raise UserError(
                f"{where}: {name}={value!r} may change what a {family.model_type} model computes "
                "and is not supported; remove the field only if you know that it does not"
            )


def _share(width: int, heads: int, where: str) -> int:
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{where}: hidden_size={width!r} is not a multiple of num_attention_heads={heads!r}, "
            "and there is no head_dim"
        )
    return width // heads


def _read_windows(fields: Fields, layers: int, where: str) -> tuple[int, ...]:
    """`layer_types` where it is given; before transformers 4.52 the layers after
    `max_window_layers` had the window."""
    window = fields.get("sliding_window", 4096) if fields.get("use_sliding_window") else None
    types = fields.get("layer_types")
    if types is None:
        first = fields.get("max_window_layers", 28)
        types = ["full_attention"] * min(first, layers)
        types += ["sliding_attention"] * (layers - len(types))
        if window is None:
            return ()
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown:
        raise UserError(f"{where}: layer_types {', '.join(unknown)} are not supported")
    if len(types) != layers:
        raise UserError(f"{where}: {len(types)} layer_types for num_hidden_layers={layers}")
    if "sliding_attention" not in types:
        return ()
    if type(window) is not int or window < 1:
        raise UserError(
            f"{where}: layer_types name sliding_attention, but use_sliding_window="
            f"{fields.get('use_sliding_window')!r} and sliding_window={window!r} give no window"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in types)


def write_config(config: ModelConfig, *, dtype: str) -> dict[str, Any]:
    """`config.json` of a model; the names are those that transformers 4 and 5 both read."""
    architecture, family = _family_of(config)
    fields = {
        "architectures": [architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "max_position_embeddings": config.max_positions or 32768,
        "torch_dtype": dtype,
        **family.fixed,
        **write_rope(config.rope_theta, config.rope_scaling),
    }
    fields.pop("partial_rotary_factor")
    return fields | (_write_windows(config) if family.windowed else {})


def _family_of(config: ModelConfig) -> tuple[str, Family]:
    """The family that has just this model's parts; its export says the rest by numbers."""
    parts = {name for name in ("qkv_bias", "qk_norm") if getattr(config, name)}
    for name, family in FAMILIES.items():
        if set(family.model) == parts and (family.windowed or not any(config.windows)):
            return name, family
    raise UserError(
        f"no architecture of {', '.join(FAMILIES)} has qkv_bias={config.qkv_bias}, "
        f"qk_norm={config.qk_norm} and windows={config.windows}: it cannot be exported"
    )


def _write_windows(config: ModelConfig) -> dict[str, Any]:
    sizes = {window for window in config.windows if window}
    if not sizes:
        return {"use_sliding_window": False}
    if len(sizes) > 1:
        raise UserError(f"windows of {len(sizes)} sizes {sorted(sizes)} cannot be exported, only 1")
    kinds = ["sliding_attention" if w else "full_attention" for w in config.windows]
    return {
        "use_sliding_window": True,
        "sliding_window": sizes.pop(),
        "max_window_layers": kinds.index("sliding_attention"),
        "layer_types": kinds,
    }
