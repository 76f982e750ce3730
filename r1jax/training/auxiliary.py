"""What an update does besides its objective: even use of experts, multi-token prediction."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r1jax.config import AuxiliaryConfig
from r1jax.errors import UserError
from r1jax.models import ModelConfig, Transformer
from r1jax.models.moe import Routing, balance_loss
from r1jax.models.mtp import counted_places, mtp_loss
from r1jax.types import PackedBatch, Params, Stats


class Shares(NamedTuple):
    """A micro-batch's part of its batch."""

    places: Float[Array, "*M"]  # of the places that hold a token
    further: Float[Array, "*M"]  # one over the batch's places where a token further counts


def batch_shares(batch: PackedBatch) -> Shares:
    """Of each micro-batch of an [M, B, T] batch; of [B, T], of the one it is."""
    filled = jnp.sum(batch.segment_ids > 0, axis=(-2, -1), dtype=jnp.float32)
    # Over places, not predictions: rows that share prompts are refused before they get here.
    counted = counted_places(batch.mask, batch.segment_ids)
    counted = jnp.maximum(jnp.sum(counted, dtype=jnp.float32), 1)
    return Shares(
        places=filled / jnp.maximum(jnp.sum(filled), 1),
        further=jnp.full_like(filled, 1 / counted),
    )


def auxiliary_loss(
    config: AuxiliaryConfig,
    module: Transformer,
    params: Params,
    micro: PackedBatch,
    shares: Shares,
    *,
    hidden: Float[Array, "B T D"],
    routing: dict[str, Routing],
    teaches_model: bool,
) -> tuple[Float[Array, ""], Stats, dict[str, Routing]]:
    """(the micro-batch's share of the batch's loss, statistics, the routing, MTP's included).

    The balance loss is that of each micro-batch's tokens, weighed by their number: unlike all else
    it depends on how a batch was cut. Without `teaches_model`, multi-token prediction trains its
    module alone: it is to follow a policy, not to have the policy imitate its own samples.
    """
    loss, stats = jnp.float32(0), {}
    if config.mtp_loss:
        if not teaches_model:
            hidden = jax.lax.stop_gradient(hidden)
            params = {**jax.lax.stop_gradient(dict(params)), "mtp": params["mtp"]}
        nll, _, of_mtp = mtp_loss(
            module,
            params,
            hidden,
            targets=micro.targets,
            positions=micro.positions,
            segment_ids=micro.segment_ids,
            mask=micro.mask,
        )
        stats["mtp_loss"] = nll * shares.further
        loss += config.mtp_loss * stats["mtp_loss"]
        routing = {**routing, **of_mtp}
    if config.balance_loss:
        stats["balance_loss"] = balance_loss(module.config.moe, routing) * shares.places
        loss += config.balance_loss * stats["balance_loss"]
    return loss, stats, routing


def require_parts(config: AuxiliaryConfig, model: ModelConfig) -> None:
    """A `UserError` where the model lacks what a setting is for."""
    needs = {
        "balance_loss": (bool(model.moe.experts), "no mixture of experts"),
        "rebalance": (
            bool(model.moe.experts) and model.moe.selection_bias,
            "no experts that are chosen with a bias; auxiliary.balance_loss evens the others out",
        ),
        "mtp_loss": (model.mtp, "no module for multi-token prediction"),
    }
    for name, (has, lacks) in needs.items():
        if getattr(config, name) and not has:
            raise UserError(
                f"config.auxiliary.{name}={getattr(config, name)}: the model has {lacks}; use 0"
            )
