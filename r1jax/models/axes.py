"""What the axes of parameters are, for `mesh.param_shardings` to lay them over devices."""

from collections.abc import Mapping
from typing import Any

import jax

from r1jax.types import Params

# Logical axes of every parameter by its name; a stack of layers puts "layers" before them.
PARAM_AXES: Mapping[str, tuple[str | None, ...]] = {
    "embedding": ("vocab", "embed"),
    "head": ("embed", "vocab"),
    "query": ("embed", "heads", "head_dim"),
    "key": ("embed", "kv_heads", "head_dim"),
    "value": ("embed", "kv_heads", "head_dim"),
    "out": ("heads", "head_dim", "embed"),
    "query_bias": ("heads", "head_dim"),
    "key_bias": ("kv_heads", "head_dim"),
    "value_bias": ("kv_heads", "head_dim"),
    "query_norm": ("head_dim",),
    "key_norm": ("head_dim",),
    "query_down": ("embed", None),
    "query_down_norm": (None,),
    "query_up": (None, "heads", "head_dim"),
    "kv_down": ("embed", None),
    "kv_down_norm": (None,),
    "kv_up": (None, "heads", "head_dim"),
    "gate": ("embed", "ffn"),
    "up": ("embed", "ffn"),
    "down": ("ffn", "embed"),
    "token_norm": ("embed",),
    "hidden_norm": ("embed",),
    "output_norm": ("embed",),
    "join": (None, "embed"),
    "router": ("embed", None),
    "router_bias": (None,),
    "expert_gate": ("experts", "embed", "ffn"),
    "expert_up": ("experts", "embed", "ffn"),
    "expert_down": ("experts", "ffn", "embed"),
    "shared_gate": ("embed", "ffn"),
    "shared_up": ("embed", "ffn"),
    "shared_down": ("ffn", "embed"),
    "attention_norm": ("embed",),
    "mlp_norm": ("embed",),
    "final_norm": ("embed",),
    "score": ("embed",),
    "score_bias": (None,),
}


def logical_axes(params: Params) -> Any:
    """The tree of logical axes of a parameter tree."""

    def axes(path: tuple[Any, ...], _: Any) -> tuple[str | None, ...]:
        names = [entry.key for entry in path]
        stacked = ("layers",) if names[0].startswith("layers") else ()
        return stacked + PARAM_AXES[names[-1]]

    return jax.tree_util.tree_map_with_path(axes, params)
