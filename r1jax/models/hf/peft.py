"""LoRA adapters as the peft library has them: adapter_config.json, adapter_model.safetensors."""

import functools
import pathlib

import jax
import numpy as np

from r1jax.models import lora
from r1jax.models.hf import files, names
from r1jax.models.hf.save import appearing_whole, new_folder
from r1jax.models.transformer import Transformer, init_params
from r1jax.types import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ENDS = {lora.A: ".lora_A.weight", lora.B: ".lora_B.weight"}


def save_adapter(
    module: Transformer,
    adapters: Params,
    directory: str | pathlib.Path,
    *,
    rank: int,
    alpha: float,
    base: str,
) -> None:
    """Write adapters into a new folder. `base` names the model they belong to."""
    tensors = to_tensors(module, adapters)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with appearing_whole(new_folder(directory)) as draft:
        files.write_file(
            draft / WEIGHTS,
            {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()},
            tensors.__getitem__,
        )
        files.write_json(draft / CONFIG, settings)


def to_tensors(module: Transformer, adapters: Params) -> dict[str, np.ndarray]:
    """A [rank, in] and B [out, rank] of every layer and projection, under peft's names."""
    found: dict[str, np.ndarray] = {}
    sources = names.sources(jax.eval_shape(functools.partial(init_params, module), 0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(adapters):
        *parents, last = names.path_of(path).split("/")
        name, end = lora.split(last)
        source = sources["/".join([*parents, name])]
        stack = np.asarray(jax.device_get(leaf))
        for place in names.places(source, stack.shape):
            one = stack[place]
            flat = one.reshape(-1, one.shape[-1]) if end == lora.A else one.reshape(len(one), -1)
            tensor = source.tensor_name(place).removesuffix(".weight") + _ENDS[end]
            found[f"base_model.model.{tensor}"] = np.ascontiguousarray(flat.T)
    return found
