"""Tiny models, random batches, float64 references, and readers of compiled programs."""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from r1jax import models
from r1jax.monitor.clock import CompileCounter
from r1jax.ops import packing
from r1jax.types import PackedBatch, Params

TINY = models.ModelConfig(
    vocab_size=24, layers=2, width=16, heads=4, kv_heads=2, head_dim=8, ffn=32
)


def make_tiny(seed: int = 0, **changes) -> tuple[models.Transformer, Params]:
    """A small decoder in which no parameter sits at a special value such as 0 or 1."""
    module = models.Transformer(dataclasses.replace(TINY, **changes))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        middle = 1.0 if path[-1].key.endswith("norm") else 0.0
        return jnp.asarray(rng.normal(middle, 0.25, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(functools.partial(models.init_params, module), 0)
    return module, jax.tree_util.tree_map_with_path(draw, shapes)


def random_sequences(
    rng: np.random.Generator, count: int, *, longest: int, vocabulary: int = TINY.vocab_size
) -> list[packing.Sequence]:
    """Prompts with responses of random lengths; a token or two of a response does not count."""
    sequences = []
    for number in range(count):
        response = int(rng.integers(1, longest - 1))
        prompt = int(rng.integers(1, longest - response + 1))
        sequences.append(
            packing.Sequence(
                tokens=rng.integers(0, vocabulary, prompt + response),
                mask=rng.random(response) < 0.9,
                advantages=np.full(response, rng.normal()),
                logp_behavior=-rng.exponential(1.0, response),
                prompt_id=number // 2,
            )
        )
    return sequences


def random_batch(
    rng: np.random.Generator, count: int, *, longest: int, row_length: int, rows: int | None = None
) -> PackedBatch:
    sequences = random_sequences(rng, count, longest=longest)
    return packing.pack(sequences, row_length=row_length, rows=rows)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64; a logit of -inf is allowed."""
    shifted = np.float64(logits) - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@contextlib.contextmanager
def full_compiles() -> Iterator[None]:
    """What XLA makes of a program for a user: for tests of its memory, its products, its loops."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def compile_fully(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """With `full_compiles`, and on a CPU with the emitters that users have (see conftest.py)."""
    flag = "xla_cpu_use_fusion_emitters"
    with full_compiles():
        return lowered.compile({flag: True} if flag in os.environ.get("XLA_FLAGS", "") else None)


@contextlib.contextmanager
def quick_compiles() -> Iterator[None]:
    """Half the compile time, for tests that look at numbers only: the default, see conftest.py."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield


@contextlib.contextmanager
def kept_compiles(folder: pathlib.Path) -> Iterator[None]:
    """Programs are kept in `folder`: for commands that compile the same few again and again.

    The cache itself is reset at the end: without its folder it would go on, and writing programs
    for eight devices, as other tests have, can crash jaxlib 0.10.
    """
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def counted_compiles() -> Iterator[CompileCounter]:
    counter = CompileCounter()
    try:
        yield counter
    finally:
        counter.close()


@contextlib.contextmanager
def as_users_call() -> Iterator[None]:
    """Without the checks of types and promotions that only tests have, and which refuse first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def largest_buffer(hlo: str) -> int:
    """Elements of the largest array that any instruction of a compiled program makes."""
    shapes = re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]*)\]", hlo)
    return max(math.prod(int(size) for size in shape.split(",") if size) for shape in shapes)
