"""What a layer keeps for its backward pass and what it computes again."""

from typing import Any

import flax.linen as nn
import jax

from r1jax.ops.attention import ATTENDED

POLICIES = ("none", "dots", "full")

_is_product = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_is_attended = jax.checkpoint_policies.save_only_these_names(ATTENDED)


def keeps_products(primitive: Any, *args: Any, **params: Any) -> bool:
    """Products with kernels, and what attention gave: all that is dear to compute again.

    The rest (norms, rotations, activations) is cheaper to compute than to write and read.
    """
    return (
        _is_product(primitive, *args, **params)
        or _is_attended(primitive, *args, **params)
        or primitive.name.startswith("ragged_dot")
    )


def remat(block: Any, policy: str, *, scanned: bool) -> Any:
    """`block` keeping everything ("none"), its products ("dots") or its input only ("full")."""
    if policy == "none":
        return block
    keeps = {"full": None, "dots": keeps_products}[policy]
    # Inside a scan the loop itself keeps XLA from undoing the rematerialisation.
    return nn.remat(block, policy=keeps, prevent_cse=not scanned)
