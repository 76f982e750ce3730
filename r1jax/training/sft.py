"""Supervised training of the tiny base model on its task's corpus."""

import jax
import numpy as np

from r1jax.data.tasks import documents_at
from r1jax.errors import UserError
from r1jax.ops import packing
from r1jax.training.batches import BatchShape, make_batch_shape, pack_micro
from r1jax.training.optimizer import make_optimizer
from r1jax.training.session import Session
from r1jax.training.setup import (
    Setup,
    abstract_state,
    fresh_params,
    fresh_state,
)
from r1jax.training.step import (
    make_supervised_loss,
    make_update,
    supervised_weights,
)
from r1jax.types import PackedBatch, Params

PHASE = "pretrain"


def pretrain(session: Session) -> Params:
    """Train the base model, or go on training it, or read it back if it is done."""
    setup = session.setup
    config = setup.config.pretrain
    if not config.steps:
        return fresh_params(setup)
    optimizer = make_optimizer(config.optim, config.steps)
    checkpoints = session.checkpoints(PHASE)
    restored = checkpoints.restore(abstract_state(setup, optimizer))
    if restored is None:
        first, state = 0, fresh_state(setup, optimizer, fresh_params(setup))
    else:
        first, state, _ = restored
    if first < config.steps:
        session.forget_after(PHASE, first)
        state = _train(session, state, optimizer, checkpoints, first)
    checkpoints.close()
    return state.params


def _train(session, state, optimizer, checkpoints, first):
    setup = session.setup
    steps = setup.config.pretrain.steps
    every = setup.config.checkpoint.every
    shape = make_batch_shape(
        setup.config.batch,
        setup.mesh,
        sequences=setup.config.pretrain.documents_per_step,
        longest=setup.config.data.max_prompt_tokens + setup.config.sampling.max_tokens,
    )
    auxiliary = setup.config.auxiliary
    update = make_update(
        make_supervised_loss(setup.module, auxiliary),
        supervised_weights,
        optimizer,
        rebalance=auxiliary.rebalance,
        lanes=setup.lanes,
    )
    progress = session.progress(PHASE, steps, first)
    for step in range(first, steps):
        batch, used = corpus_batch(setup, shape, step)
        with session.clock.watch("update"):
            state, stats = update(state, setup.place(batch), np.int32(used))
        done = step + 1
        stopping = session.stopping()
        # Reading a number waits for the device, so it is done now and then only.
        if done % every == 0 or done == steps or stopping:
            with session.clock.watch("update"):
                stats = {name: float(value) for name, value in jax.device_get(stats).items()}
            session.require_finite(PHASE, step, stats, batch)
            session.sinks.write(PHASE, step, stats)
            progress.step(done, {"loss": f"{stats['loss']:.3f}"})
            with session.clock.watch("checkpoint"):
                checkpoints.save(done, state, {})
        if stopping:
            with session.clock.watch("checkpoint"):
                checkpoints.wait()
            session.interrupts.raise_if_received()
    with session.clock.watch("checkpoint"):
        checkpoints.wait()
    return state


def corpus_batch(setup: Setup, shape: BatchShape, step: int) -> tuple[PackedBatch, int]:
    """The documents of one step, packed; the loss is on what follows the question."""
    config = setup.config
    sequences = []
    for prompt, response in documents_at(
        setup.task,
        seed=config.seed,
        index=step,
        count=config.pretrain.documents_per_step,
        reasoning_share=config.pretrain.reasoning_share,
    ):
        start, end = setup.tokenizer.encode(prompt), setup.tokenizer.encode(response)
        sequences.append(
            packing.Sequence(np.array(start + end, np.int32), mask=np.ones(len(end), bool))
        )
    longest = max(len(sequence.tokens) for sequence in sequences)
    if longest > shape.row_length:
        raise UserError(
            f"pretrain step {step}: the task's corpus has a text of {longest} tokens, and rows "
            f"have {shape.row_length} (prompt and response, from config.data.max_prompt_tokens and "
            f"sampling.max_tokens): set config.batch.row_length to {longest} or more"
        )
    return pack_micro(sequences, shape)
