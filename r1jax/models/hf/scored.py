"""Reward models and step-reward models of transformers: a decoder with `score` for a head."""

from collections.abc import Mapping
from typing import Any

from r1jax.errors import UserError
from r1jax.models import heads
from r1jax.types import Params

# What an architecture's name ends with -> whether its head has a bias.
_KINDS = {"ForSequenceClassification": False, "ForTokenClassification": True}
_CAUSAL = "ForCausalLM"
# Dropout of the head is for training it there; labels are counted here.
_OF_THE_HEAD = ("num_labels", "classifier_dropout", "id2label", "label2id")


def as_backbone(fields: Mapping[str, Any], where: str) -> tuple[dict[str, Any], bool | None]:
    """(`config.json` of the decoder alone, has the head a bias; None = there is no head)"""
    for name in fields.get("architectures") or []:
        for ending, bias in _KINDS.items():
            if name.endswith(ending):
                labels = fields.get("num_labels") or len(fields.get("id2label") or "12")
                if labels != 1:
                    raise UserError(
                        f"{where}: {name} with {labels} labels is not supported, only the one "
                        "number of a reward model (id2label with one entry)"
                    )
                kept = {key: value for key, value in fields.items() if key not in _OF_THE_HEAD}
                causal = name.removesuffix(ending) + _CAUSAL
                return {**kept, "architectures": [causal], "tie_word_embeddings": True}, bias
    return dict(fields), None


def with_head(settings: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """`config.json` of a decoder, made that of the model that `params` are of."""
    if heads.SCORE not in params:
        return dict(settings)
    (ending,) = (ending for ending, bias in _KINDS.items() if bias == (heads.BIAS in params))
    (causal,) = settings["architectures"]
    label = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return {**settings, **label, "architectures": [causal.removesuffix(_CAUSAL) + ending]}
