"""Distillation: the divergence of a student's next-token distributions from a teacher's."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1jax.objectives.reductions import Real, Scalar, above_0, require_choice, require_shape

Direction = Literal["forward", "reverse"]


def divergence(
    student_logits: Float[Array, "*T V"],
    teacher_logits: Float[Array, "*T V"],
    *,
    direction: Direction = "forward",
) -> Float[Array, "*T"]:
    """KL per token over the whole vocabulary, no gradient to the teacher.

    forward  KL(teacher || student): covers what the teacher does (Hinton, 1503.02531)
    reverse  KL(student || teacher): for student samples (GKD 2306.13649, on-policy distillation)
    """
    require_choice("direction", direction, Direction)
    require_shape(student_logits.shape, teacher_logits=teacher_logits)
    student = jax.nn.log_softmax(student_logits)
    teacher = jax.lax.stop_gradient(jax.nn.log_softmax(teacher_logits))
    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    # What the first distribution excludes has no share; 0 * inf would be NaN, gradient included.
    is_possible = first > -jnp.inf
    first, second = jnp.where(is_possible, first, 0), jnp.where(is_possible, second, 0)
    return jnp.where(is_possible, jnp.exp(first) * (first - second), 0).sum(axis=-1)


def distillation_loss(
    student_hidden: Float[Array, "B T D"],
    student_head: Float[Array, "D V"],
    teacher_hidden: Float[Array, "B T E"],
    teacher_head: Float[Array, "E V"],
    mask: Bool[Array, "B T"],
    *,
    direction: Direction = "forward",
    temperature: Real = 1.0,
    chunk: int = 1024,
    denominator: Scalar | None = None,
) -> Float[Array, ""]:
    """Sum over counted tokens of the divergence / denominator (default: the counted tokens).

    Logits are formed for `chunk` tokens at a time, and again in the backward pass: no array has the
    size of tokens times vocabulary.
    """
    for name, hidden in (("student_hidden", student_hidden), ("teacher_hidden", teacher_hidden)):
        if hidden.shape[:-1] != mask.shape:
            raise ValueError(
                f"{name} has shape {hidden.shape}, it must be {mask.shape} and a width"
            )
    tokens = mask.size
    chunk = min(chunk, tokens)
    padding = -tokens % chunk

    def chunks(array):
        flat = array.reshape(tokens, *array.shape[2:])
        flat = jnp.pad(flat, [(0, padding)] + [(0, 0)] * (flat.ndim - 1))
        return flat.reshape(-1, chunk, *flat.shape[1:])

    @jax.checkpoint
    def chunk_sum(inputs):
        student, teacher, counts = inputs
        per_token = divergence(
            jnp.where(counts[:, None], student, 0) @ student_head / temperature,
            jnp.where(counts[:, None], teacher, 0) @ teacher_head / temperature,
            direction=direction,
        )
        return jnp.where(counts, per_token, 0).sum()

    sums = jax.lax.map(chunk_sum, (chunks(student_hidden), chunks(teacher_hidden), chunks(mask)))
    if denominator is None:
        denominator = jnp.maximum(mask.sum(), 1)
    return sums.sum() / above_0(jnp.asarray(denominator)).astype(sums.dtype)
