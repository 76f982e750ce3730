"""AdamW with a schedule and a clip, from the config."""

import optax

from r1jax.config import OptimConfig


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then constant or a cosine down to `final_fraction` at the last step."""
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(
            config.lr, max(steps - config.warmup_steps, 1), alpha=config.final_fraction
        )
    else:
        main = optax.constant_schedule(config.lr)
    if not config.warmup_steps:
        return main
    # The first update already moves: warm-up runs over lr/n, 2 lr/n, ..., lr.
    start = config.lr / config.warmup_steps
    warmup = optax.linear_schedule(start, config.lr, max(config.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )
