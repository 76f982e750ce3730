"""Which tensor of a checkpoint is which parameter.

Checkpoints hold one matrix `[out, in]` per layer and projection; parameters are `[in, out]` with
heads as axes of their own, and layers stacked in front. So a parameter is a checkpoint's tensors,
reshaped, transposed, stacked: all of it done by views, in both directions.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from r1jax.types import Params


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensors of one parameter. `inputs` of its axes, after the stacked ones, are summed over
    when it is applied; they come last in a checkpoint. None = no matrix, axes stay in order."""

    name: str  # {} for the number of the layer, and of the expert
    inputs: int | None = None
    first: int = 0  # the number of the stack's first layer

    @property
    def stacked(self) -> int:
        return self.name.count("{")

    def tensor_name(self, place: tuple[int, ...]) -> str:
        return self.name.format(*(place[:1] and (place[0] + self.first, *place[1:])))

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each tensor of a parameter of this shape."""
        rest = shape[self.stacked :]
        if self.inputs is None:
            # Biases are flat in a checkpoint; an embedding is as it is here.
            return rest if self.stacked == 0 else (math.prod(rest),)
        return math.prod(rest[self.inputs :]), math.prod(rest[: self.inputs])

    def to_parameter(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A view of a checkpoint's tensor as the parameter's axes after the stacked ones."""
        rest = shape[self.stacked :]
        if self.inputs is None:
            return tensor.reshape(rest)
        outputs = len(rest) - self.inputs
        turned = tensor.reshape(rest[self.inputs :] + rest[: self.inputs])
        return turned.transpose(*range(outputs, len(rest)), *range(outputs))

    def to_tensor(self, parameter: np.ndarray) -> np.ndarray:
        """The way back, of one place of the stack."""
        shape = self.tensor_shape((0,) * self.stacked + parameter.shape)
        if self.inputs is None:
            return parameter.reshape(shape)
        axes = range(parameter.ndim)
        return parameter.transpose(*axes[self.inputs :], *axes[: self.inputs]).reshape(shape)


EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_ATTENTION = "model.layers.{}.self_attn."
_MLP = "model.layers.{}.mlp."

# By path in the parameter tree.
SOURCES: Mapping[str, Source] = {
    "embedding": Source(EMBEDDING),
    "layers/block/attention_norm": Source("model.layers.{}.input_layernorm.weight"),
    "layers/block/attention/query": Source(_ATTENTION + "q_proj.weight", 1),
    "layers/block/attention/key": Source(_ATTENTION + "k_proj.weight", 1),
    "layers/block/attention/value": Source(_ATTENTION + "v_proj.weight", 1),
    "layers/block/attention/query_bias": Source(_ATTENTION + "q_proj.bias"),
    "layers/block/attention/key_bias": Source(_ATTENTION + "k_proj.bias"),
    "layers/block/attention/value_bias": Source(_ATTENTION + "v_proj.bias"),
    "layers/block/attention/query_norm": Source(_ATTENTION + "q_norm.weight"),
    "layers/block/attention/key_norm": Source(_ATTENTION + "k_norm.weight"),
    "layers/block/attention/query_down": Source(_ATTENTION + "q_a_proj.weight", 1),
    "layers/block/attention/query_down_norm": Source(_ATTENTION + "q_a_layernorm.weight"),
    "layers/block/attention/query_up": Source(_ATTENTION + "q_b_proj.weight", 1),
    "layers/block/attention/kv_down": Source(_ATTENTION + "kv_a_proj_with_mqa.weight", 1),
    "layers/block/attention/kv_down_norm": Source(_ATTENTION + "kv_a_layernorm.weight"),
    "layers/block/attention/kv_up": Source(_ATTENTION + "kv_b_proj.weight", 1),
    "layers/block/attention/out": Source(_ATTENTION + "o_proj.weight", 2),
    "layers/block/mlp_norm": Source("model.layers.{}.post_attention_layernorm.weight"),
    "layers/block/gate": Source(_MLP + "gate_proj.weight", 1),
    "layers/block/up": Source(_MLP + "up_proj.weight", 1),
    "layers/block/down": Source(_MLP + "down_proj.weight", 1),
    "layers/block/moe/router": Source(_MLP + "gate.weight", 1),
    "layers/block/moe/router_bias": Source(_MLP + "gate.e_score_correction_bias"),
    "layers/block/moe/expert_gate": Source(_MLP + "experts.{}.gate_proj.weight", 1),
    "layers/block/moe/expert_up": Source(_MLP + "experts.{}.up_proj.weight", 1),
    "layers/block/moe/expert_down": Source(_MLP + "experts.{}.down_proj.weight", 1),
    "layers/block/moe/shared_gate": Source(_MLP + "shared_experts.gate_proj.weight", 1),
    "layers/block/moe/shared_up": Source(_MLP + "shared_experts.up_proj.weight", 1),
    "layers/block/moe/shared_down": Source(_MLP + "shared_experts.down_proj.weight", 1),
    "mtp/token_norm": Source("model.layers.{}.enorm.weight"),
    "mtp/hidden_norm": Source("model.layers.{}.hnorm.weight"),
    "mtp/join": Source("model.layers.{}.eh_proj.weight", 1),
    "mtp/output_norm": Source("model.layers.{}.shared_head.norm.weight"),
    "final_norm": Source("model.norm.weight"),
    "head": Source(HEAD, 1),
    "score": Source("score.weight", 1),
    "score_bias": Source("score.bias"),
}


def path_of(path: tuple[Any, ...]) -> str:
    return "/".join(entry.key for entry in path)


def sources(shapes: Params) -> dict[str, Source]:
    """The source of every parameter, by path."""
    firsts = _first_layers(shapes)
    found = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(shapes):
        stack = path_of(path).partition("/")[0]
        source = SOURCES[_usual_path(path_of(path))]
        if stack == "mtp":  # one layer, not a stack of them
            name = source.name.replace("{}", str(firsts[stack]), 1)
            found[path_of(path)] = dataclasses.replace(source, name=name)
        else:
            found[path_of(path)] = dataclasses.replace(source, first=firsts.get(stack, 0))
    return found


def _usual_path(path: str) -> str:
    """The path in `SOURCES`: stacks of layers, and the block of the MTP module, have the same."""
    stack, _, rest = path.partition("/")
    as_layer = stack.startswith("layers") or rest.startswith("block/")
    return f"layers/{rest}" if as_layer else path


def _first_layers(shapes: Params) -> dict[str, int]:
    """By stack: `layers_7` starts at layer 7, `layers` behind all others, `mtp` behind these."""
    lengths = {
        name: jax.tree.leaves(stack)[0].shape[0]
        for name, stack in shapes.items()
        if name.startswith("layers")
    }
    others = {name: length for name, length in lengths.items() if name != "layers"}
    firsts = {name: int(name.removeprefix("layers_")) for name in others}
    return {**firsts, "layers": sum(others.values()), "mtp": sum(lengths.values())}


def copies(shapes: Params) -> dict[str, str]:
    """Tensors that a file may hold a second time: the tied head, and what MTP shares."""
    head = HEAD if "head" in shapes else EMBEDDING
    found = {} if "head" in shapes else {HEAD: EMBEDDING}
    if "mtp" in shapes:
        layer = f"model.layers.{_first_layers(shapes)['mtp']}."
        found |= {layer + "embed_tokens.weight": EMBEDDING, layer + "shared_head.head.weight": head}
    return found


def stored_dtype(path: str, dtype: DTypeLike) -> np.dtype:
    """Of a parameter of a model in this dtype: steps of 0.001 to a bias are lost in bfloat16."""
    return np.dtype(np.float32) if path.endswith("router_bias") else np.dtype(dtype)


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a checkpoint: the parameter it is of, and its place in the stack."""

    path: str
    source: Source
    place: tuple[int, ...]
    shape: tuple[int, ...]  # of the tensor


def pieces(shapes: Params) -> dict[str, Piece]:
    """All tensors that the checkpoint of a model has: by name, in the order they are used."""
    found = {}
    order = {path: number for number, path in enumerate(SOURCES)}
    known = sources(shapes)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        source = known[path_of(path)]
        for place in places(source, leaf.shape):
            piece = Piece(path_of(path), source, place, source.tensor_shape(leaf.shape))
            found[source.tensor_name(place)] = piece

    firsts = _first_layers(shapes)

    def when_used(item: tuple[str, Piece]) -> tuple[int, ...]:
        piece, behind_all = item[1], np.iinfo(np.int32).max
        stack = piece.path.partition("/")[0]
        layer = firsts.get(stack, -1 if stack == "embedding" else behind_all)
        inner = piece.place
        if stack in firsts and stack != "mtp":
            layer, inner = layer + piece.place[0], piece.place[1:]
        return layer, order[_usual_path(piece.path)], *inner

    return dict(sorted(found.items(), key=when_used))


def places(source: Source, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape[: source.stacked]))
