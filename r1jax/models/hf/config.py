"""A Hugging Face `config.json` as a `ModelConfig`, and back.

Nothing that changes the maths is skipped over: a field is used, known to be harmless, or refused.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.hf import fp8
from r1jax.models.hf.families import FAMILIES, Family, Fields
from r1jax.models.hf.rope import read_rope, write_rope

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
    model_max_length output_router_logits router_aux_loss_coef
""")


def read_config(fields: Fields, *, where: str, dtype: str = "float32") -> ModelConfig:
    """The model that a `config.json` describes; a UserError names what it cannot be."""
    family = FAMILIES[_architecture(fields, where)]
    fields = {family.aliases.get(name, name): value for name, value in fields.items()}
    _refuse_unsupported(fields, family, where)
    said = {name: value for name, value in fields.items() if value is not None}
    none = {name: 0 for name in family.zero_if_null if name in fields}
    found = {**family.defaults, **none, **said}
    absent = [name for name in _SIZES if name not in found]
    if absent:
        raise UserError(f"{where}: says nothing of {', '.join(absent)}")
    sizes = _read_sizes(found, where)
    theta, scaling = read_rope(fields, where=where, max_positions=sizes["max_positions"])
    values = {
        **sizes,
        **family.model,
        **_read_parts(found, family, where),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "norm_eps": float(found["rms_norm_eps"]),
        "tied_head": bool(found["tie_word_embeddings"]),
        "windows": _read_windows(fields, sizes["layers"], where) if family.windowed else (),
        "mtp": _read_mtp(found, where),
        "dtype": dtype,
    }
    if "moe.experts" in family.parts:
        values["moe.dense_layers"] = _read_dense_layers(found, sizes["layers"], where)
    try:
        return _replaced(ModelConfig(), values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with fields changed; "a.b" is field b of field a."""
    flat = {name: value for name, value in values.items() if "." not in name}
    for section in {name.partition(".")[0] for name in values if "." in name}:
        inner = {
            name.removeprefix(section + "."): value
            for name, value in values.items()
            if name.startswith(section + ".")
        }
        flat[section] = _replaced(getattr(config, section), inner)
    return dataclasses.replace(config, **flat)


def _read_sizes(found: Fields, where: str) -> dict[str, int]:
    heads, width = found["num_attention_heads"], found["hidden_size"]
    if "kv_lora_rank" in found:
        # Of latent attention, whatever a file says beside: its keys' turned part and the other.
        head_dim = found["qk_nope_head_dim"] + found["qk_rope_head_dim"]
    else:
        head_dim = found["head_dim"] if "head_dim" in found else _share(width, heads, where)
    sizes = {
        "vocab_size": found["vocab_size"],
        "layers": found["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "kv_heads": found.get("num_key_value_heads", heads),
        "head_dim": head_dim,
        "ffn": found["intermediate_size"],
        "max_positions": found["max_position_embeddings"],
    }
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"{where}: {name} comes out as {size!r}, a whole number is wanted")
    return sizes


def _read_parts(found: Fields, family: Family, where: str) -> dict[str, Any]:
    """The numbers that only this family has, each of its field's type."""
    values = {}
    for field, name in family.parts.items():
        value, kind = found[name], type(operator.attrgetter(field)(ModelConfig()))
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UserError(f"{where}: {name}={value!r}: of type {kind.__name__} is wanted")
        values[field] = value
    return values


def _read_dense_layers(found: Fields, layers: int, where: str) -> tuple[int, ...]:
    step, listed = found.get("decoder_sparse_step", 1), found.get("mlp_only_layers", ())
    first = found.get("first_k_dense_replace", 0)
    if type(step) is not int or step < 1 or type(first) is not int:
        raise UserError(
            f"{where}: decoder_sparse_step={step!r}, first_k_dense_replace={first!r}: whole "
            "numbers are wanted"
        )
    dense = (n for n in range(layers) if n < first or n in listed or (n + 1) % step)
    return tuple(dense)


def _read_mtp(found: Fields, where: str) -> bool:
    modules = found.get("num_nextn_predict_layers", 0)
    if modules not in (0, 1):
        raise UserError(f"{where}: num_nextn_predict_layers={modules!r}: 0 or 1 is supported")
    return bool(modules)


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
    known = _USED | _HARMLESS | family.inert | set(family.defaults) | set(family.parts.values())
    if family.windowed:
        known |= _WINDOW_FIELDS
    for name, value in fields.items():
        if value is None:
            continue
        if name == "quantization_config":
            fp8.block_of(value, where)
            continue
        if name in family.fixed:
            if value != family.fixed[name]:
                raise UserError(
                    f"{where}: {name}={value!r} is not supported for {family.model_type}, only "
                    f"{family.fixed[name]!r}"
                )
        elif name not in known and value not in (False, 0, "", [], {}):
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
    for architecture, family in FAMILIES.items():
        has = {"moe.experts": config.moe.experts, "mla.kv_rank": config.mla.kv_rank}
        if any((part in family.parts) != bool(size) for part, size in has.items()):
            continue
        fields = _fields_of(config, architecture, family)
        # The family is the one whose config.json says all of it: read back, it is the same model.
        if _said(read_config(fields, where="config.json")) == _said(config):
            return fields | {"torch_dtype": dtype}
    parts = {**_said(config), "vocab_size": config.vocab_size}
    usual = _said(ModelConfig())
    said = ", ".join(f"{name}={value!r}" for name, value in parts.items() if usual[name] != value)
    raise UserError(
        f"no architecture of {', '.join(FAMILIES)} says all of {said}: it cannot be exported"
    )


def _said(config: ModelConfig) -> dict[str, Any]:
    """What decides the maths of a model: all but how it is run."""
    how = ("dtype", "remat", "attention", "max_positions")
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in fields.items() if name not in how}


def _fields_of(config: ModelConfig, architecture: str, family: Family) -> dict[str, Any]:
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
        **family.fixed,
        **write_rope(config.rope_theta, config.rope_scaling),
    }
    fields.pop("partial_rotary_factor")
    for field, name in family.parts.items():
        value = operator.attrgetter(field)(config)
        fields[name] = None if name in family.zero_if_null and not value else value
    if "mlp_only_layers" in family.defaults:
        fields["mlp_only_layers"] = list(config.moe.dense_layers)
    if "first_k_dense_replace" in family.defaults:
        fields["first_k_dense_replace"] = len(config.moe.dense_layers)
    if "num_nextn_predict_layers" in family.defaults:
        fields["num_nextn_predict_layers"] = int(config.mtp)
    if "mla.kv_rank" in family.parts:
        fields["head_dim"] = config.mla.rope_dim  # as transformers means it
        fields["qk_nope_head_dim"] = config.head_dim - config.mla.rope_dim
    return fields | (_write_windows(config) if family.windowed else {})


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
