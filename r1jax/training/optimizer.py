"""AdamW with a schedule and a clip, from the config."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from r1jax.config import OptimConfig


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then constant or a cosine down to `final_fraction` at the last step."""
    if config.schedule == "cosine":
        # The last of `steps` updates comes this many after the first one past the warm-up.
        decay_steps = max(steps - config.warmup_steps - 1, 1)
        main = optax.cosine_decay_schedule(config.lr, decay_steps, alpha=config.final_fraction)
    else:
        main = optax.constant_schedule(config.lr)
    if not config.warmup_steps:
        return main
    # The first update already moves: warm-up runs over lr/n, 2 lr/n, ..., lr.
    start = config.lr / config.warmup_steps
    warmup = optax.linear_schedule(start, config.lr, max(config.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def decays(params: Any) -> Any:
    """True at matrices. Norms and biases keep their size: that of a router's selection is set by
    `moe.rebalance`, and no gradient would undo what decays."""

    def at(path: tuple[Any, ...], _: Any) -> bool:
        return not path[-1].key.endswith(("norm", "bias"))

    return jax.tree_util.tree_map_with_path(at, params)


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by one factor: its quotients are used twice, and XLA:CPU keeps
    them, an array as large as the gradients."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = limit / jnp.maximum(optax.tree.norm(updates), limit)
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    adamw = optax.chain(
        clip_by_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decays,
        ),
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax mixes its integer counters with floats, whatever promotion the caller allows.
        with jax.numpy_dtype_promotion("standard"):
            return adamw.update(updates, state, params)

    return optax.GradientTransformation(adamw.init, update)
