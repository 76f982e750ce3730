"""Mixtures of experts: choose, sort the tokens by expert, one ragged matrix product for all.

No token is dropped and no expert has a capacity. With an `expert` mesh axis each of its devices
holds some experts, sees the tokens of all of that axis, and computes what its experts add.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from r1jax.mesh import fitting_spec
from r1jax.models.config import ModelConfig, MoeConfig
from r1jax.ops.linear import Kernel, linear
from r1jax.types import Params


class Routing(NamedTuple):
    """What a router did with the tokens that count; of a stack, with a leading axis of layers."""

    load: Float[Array, "*L E"]  # tokens that chose each expert
    probability: Float[Array, "*L E"]  # each expert's share of the scores, summed over tokens
    tokens: Float[Array, "*L"]


class Moe(nn.Module):
    config: ModelConfig

    def setup(self) -> None:
        c, moe = self.config, self.config.moe
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=-2, out_axis=-1, batch_axis=(0,)
        )
        plain = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-2, out_axis=-1)
        self.router = self.param("router", plain, (c.width, moe.experts))
        if moe.selection_bias:
            self.router_bias = self.param("router_bias", nn.initializers.zeros, (moe.experts,))
        self.expert_gate = self.param("expert_gate", init, (moe.experts, c.width, moe.ffn))
        self.expert_up = self.param("expert_up", init, (moe.experts, c.width, moe.ffn))
        self.expert_down = self.param("expert_down", init, (moe.experts, moe.ffn, c.width))
        if moe.shared:
            ffn = moe.shared * moe.ffn
            self.shared_gate = self.param("shared_gate", plain, (c.width, ffn))
            self.shared_up = self.param("shared_up", plain, (c.width, ffn))
            self.shared_down = self.param("shared_down", plain, (ffn, c.width))

    def __call__(
        self, x: Float[Array, "B T D"], counted: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], Routing]:
        """Tokens that are not `counted` get nothing from the chosen experts."""
        moe = self.config.moe
        bias = self.router_bias if moe.selection_bias else jnp.zeros(moe.experts)
        # In float32 whatever the compute dtype: rounding a score changes who is chosen.
        scores = score(moe, jnp.einsum("btd,de->bte", x.astype(jnp.float32), self.router))
        chosen = choose(moe, scores, bias)
        gate, up, down = self.expert_gate, self.expert_up, self.expert_down
        kernels = (gate.astype(x.dtype), up.astype(x.dtype), down.astype(x.dtype))
        out = mix(x, chosen, weigh(moe, scores, chosen), counted, kernels)
        if moe.shared:
            shared = (self.shared_gate, self.shared_up, self.shared_down)
            out = out + gated_mlp(x, *(kernel.astype(x.dtype) for kernel in shared))
        return out, _count(scores, chosen, counted)


def gated_mlp(
    x: Float[Array, "B T D"],
    gate: Kernel,
    up: Kernel,
    down: Kernel,
) -> Float[Array, "B T D"]:
    """Kernels [D, F], [D, F] and [F, D]."""
    return linear(jax.nn.silu(linear(x, gate)) * linear(x, up), down)


def score(moe: MoeConfig, logits: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
    return {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[moe.score](logits)


def choose(
    moe: MoeConfig, scores: Float[Array, "B T E"], bias: Float[Array, " E"]
) -> Int[Array, "B T chosen"]:
    """The experts of each token: the best biased scores, within the groups whose two best biased
    scores sum highest."""
    biased = jax.lax.stop_gradient(scores + bias.astype(jnp.float32)[None, None])
    if moe.chosen_groups < moe.groups:
        grouped = biased.reshape(*biased.shape[:2], moe.groups, -1)
        worth = jnp.sum(jax.lax.top_k(grouped, 2)[0], axis=-1)
        _, best = jax.lax.top_k(worth, moe.chosen_groups)
        allowed = jnp.any(jax.nn.one_hot(best, moe.groups, dtype=bool), axis=-2)
        biased = jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(biased.shape)
    return jax.lax.top_k(biased, moe.chosen)[1]


def weigh(
    moe: MoeConfig, scores: Float[Array, "B T E"], chosen: Int[Array, "B T k"]
) -> Float[Array, "B T k"]:
    weights = jnp.take_along_axis(scores, chosen, axis=-1)
    if moe.normalized:
        weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + 1e-20)
    return weights * moe.scale


def _count(
    scores: Float[Array, "B T E"], chosen: Int[Array, "B T k"], counted: Bool[Array, "B T"]
) -> Routing:
    share = scores / jnp.sum(scores, axis=-1, keepdims=True)
    picks = jax.nn.one_hot(chosen, scores.shape[-1], dtype=jnp.float32)
    weight = counted.astype(jnp.float32)
    return Routing(
        load=jnp.einsum("btke,bt->e", picks, weight),
        probability=jnp.einsum("bte,bt->e", share, weight),
        tokens=jnp.sum(weight),
    )


def mix(
    x: Float[Array, "B T D"],
    chosen: Int[Array, "B T k"],
    weights: Float[Array, "B T k"],
    counted: Bool[Array, "B T"],
    kernels: tuple[Float[Array, "E D F"], Float[Array, "E D F"], Float[Array, "E F D"]],
) -> Float[Array, "B T D"]:
    """The weighted sum of each token's experts, wherever on the mesh these are."""
    chosen = jnp.where(counted[..., None], chosen, kernels[0].shape[0])  # an expert nobody has
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _mix_held(x, chosen, weights, *kernels, first=jnp.int32(0))
    rows = fitting_spec(mesh, x.shape, ("tokens", None, None))
    inward = fitting_spec(mesh, kernels[0].shape, ("experts", None, "ffn"))
    outward = PartitionSpec(inward[0], inward[2], None)
    by_expert, by_ffn = inward[0], inward[2]

    def of_a_device(
        x: Array, chosen: Array, weights: Array, gate: Array, up: Array, down: Array
    ) -> Array:
        first = jnp.int32(0)
        if by_expert:
            # Said here, because a hand-written gradient cannot: x's is the sum over the experts.
            x = jax.lax.pcast(x, by_expert, to="varying")
            first = jax.lax.axis_index(by_expert) * gate.shape[0]
        out = _mix_held(x, chosen, weights, gate, up, down, first=first)
        return jax.lax.psum(out, tuple(axis for axis in (by_expert, by_ffn) if axis))

    return jax.shard_map(
        of_a_device, in_specs=(rows, rows, rows, inward, inward, outward), out_specs=rows
    )(x, chosen, weights, *kernels)


def _mix_held(
    x: Float[Array, "b t D"],
    chosen: Int[Array, "b t k"],
    weights: Float[Array, "b t k"],
    gate: Float[Array, "e D f"],
    up: Float[Array, "e D f"],
    down: Float[Array, "e f D"],
    *,
    first: Int[Array, ""],
) -> Float[Array, "b t D"]:
    """What the experts from number `first` on, those held here, add to each token."""
    rows, length, width = x.shape
    copies = chosen.shape[-1]
    local = chosen.reshape(-1) - first
    local = jnp.where((local >= 0) & (local < gate.shape[0]), local, gate.shape[0])
    sizes = jnp.sum(local[:, None] == jnp.arange(gate.shape[0])[None], axis=0, dtype=jnp.int32)
    order = jnp.argsort(local)  # stable; copies for experts elsewhere come last
    back = jnp.argsort(order)
    # A ragged product says nothing of rows behind the last group.
    held = (jnp.arange(len(order)) < jnp.sum(sizes))[:, None]
    sorted_x = jnp.where(held, _spread(x.reshape(-1, width), order, back), 0)
    hidden = jax.nn.silu(jax.lax.ragged_dot(sorted_x, gate, sizes))
    hidden = hidden * jax.lax.ragged_dot(sorted_x, up, sizes)
    out = jnp.where(held, jax.lax.ragged_dot(hidden, down, sizes), 0)
    out = _permute(out, back, order).reshape(-1, copies, width)
    weights = weights.reshape(-1, copies).astype(x.dtype)
    return jnp.einsum("nkd,nk->nd", out, weights).reshape(rows, length, width)


# Gathers whose gradients are gathers: autodiff would scatter, which accelerators do slowly.


@jax.custom_vjp
def _permute(
    rows: Float[Array, "m D"], order: Int[Array, " m"], back: Int[Array, " m"]
) -> Float[Array, "m D"]:
    """rows[order]; `back` is the inverse of `order`."""
    del back
    return rows[order]


_permute.defvjp(
    lambda rows, order, back: (rows[order], back), lambda back, grad: (grad[back], None, None)
)


@jax.custom_vjp
def _spread(
    rows: Float[Array, "n D"], order: Int[Array, " m"], back: Int[Array, " m"]
) -> Float[Array, "m D"]:
    """Each row m / n times, then permuted."""
    del back
    return rows[order // (len(order) // len(rows))]


def _spread_backward(
    kept: tuple[Int[Array, " m"], int], grad: Float[Array, "m D"]
) -> tuple[Float[Array, "n D"], None, None]:
    back, rows = kept
    return jnp.sum(grad[back].reshape(rows, -1, grad.shape[-1]), axis=1), None, None


_spread.defvjp(
    lambda rows, order, back: (_spread(rows, order, back), (back, len(rows))), _spread_backward
)


def balance_loss(moe: MoeConfig, routing: Mapping[str, Routing]) -> Float[Array, ""]:
    """The auxiliary loss of Qwen3-MoE (Switch Transformer, arXiv 2101.03961 eq. 4), not yet times
    its coefficient: experts x sum over experts of (share of the tokens that chose it x its mean
    probability). `chosen` when balanced. The means are over all layers and tokens together.
    """
    total = functools.reduce(
        lambda left, right: jax.tree.map(jnp.add, left, right),
        (_over_layers(each) for each in routing.values()),
    )
    tokens = jnp.maximum(total.tokens, 1)
    return moe.experts * jnp.sum((total.load / tokens) * (total.probability / tokens))


def _over_layers(routing: Routing) -> Routing:
    """The sum over a stack; the MTP module is one layer."""
    axes = tuple(range(routing.tokens.ndim))
    return Routing(*(jnp.sum(leaf, axis=axes) for leaf in routing))


def max_load(routing: Mapping[str, Routing]) -> Float[Array, ""]:
    """The load of the busiest expert of any layer over the mean load; 1 when balanced."""
    return jnp.max(
        jnp.stack(
            [
                jnp.max(jnp.max(each.load, axis=-1) / jnp.maximum(jnp.mean(each.load, axis=-1), 1))
                for each in routing.values()
            ]
        )
    )


def rebalance(params: Params, routing: Mapping[str, Routing], *, speed: float) -> Params:
    """Balancing without an auxiliary loss (DeepSeek-V3; speed 0.001 for most of its training): the
    bias of every expert with more than the mean load goes down by `speed`, with less up.

    To be applied after an optimizer step, to the routing of all of that step's tokens. Gradients
    never reach the bias. Stacks that `routing` says nothing of stay as they are.
    """

    def moved(bias: Float[Array, "*L E"], load: Float[Array, "*L E"]) -> Float[Array, "*L E"]:
        error = jnp.mean(load, axis=-1, keepdims=True) - load
        return bias + jnp.asarray(speed, bias.dtype) * jnp.sign(error).astype(bias.dtype)

    def at(path: tuple, leaf: Array) -> Array:
        if path[-1].key != "router_bias" or path[0].key not in routing:
            return leaf
        return moved(leaf, routing[path[0].key].load)

    return jax.tree_util.tree_map_with_path(at, params)
