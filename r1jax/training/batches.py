"""From sequences to micro-batches of one fixed shape: rows, and how many a device takes at once."""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np

from r1jax import mesh as mesh_lib
from r1jax.config import BatchConfig, Config
from r1jax.errors import UserError
from r1jax.ops import attention as attention_lib
from r1jax.ops import packing
from r1jax.training.lanes import choose_lanes
from r1jax.types import Graded, PackedBatch

# Tokens of the micro-batches that a device has at work. Measured on two CPU cores, a model of 6
# layers, 256 wide: two lanes of 1536 are as fast as two of 3072 or faster (docs/training.md).
TOKENS_PER_DEVICE = {"cpu": 3072}
OTHER_TOKENS_PER_DEVICE = 8192
# Where a group is too long for one row, a CPU is fastest with rows that pass the head in one piece.
CPU_SHARED_ROW = 1024


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The one shape that every update of a phase is packed into."""

    row_length: int
    rows: int  # enough for the worst packing
    rows_per_micro: int
    share_prompts: bool = False
    block: int = 1  # places that attention visits at once


def make_batch_shape(
    batch: BatchConfig,
    mesh: jax.sharding.Mesh,
    *,
    sequences: int,
    longest: int,
    shared_prompt: int = 0,
    sharers: int = 1,
) -> BatchShape:
    """Room for `sequences` of at most `longest` tokens, in micro-batches of the wanted size.

    With a `shared_prompt`, rows have room for one prompt and all of its `sharers` if a micro-batch
    of one lane has. Unused micro-batches cost their place in host memory and nothing else.
    """
    platform = mesh.devices.flat[0].platform
    tokens = batch.tokens_per_device or TOKENS_PER_DEVICE.get(platform, OTHER_TOKENS_PER_DEVICE)
    lanes = choose_lanes(batch, mesh)
    row_length = batch.row_length or _round_up(longest, 8)
    if not batch.row_length and shared_prompt:
        group = shared_prompt + sharers * (longest - shared_prompt)
        wanted = _shared_row(group, tokens // lanes, platform)
        row_length = max(row_length, wanted)
    if row_length < longest:
        raise UserError(
            f"config.batch.row_length={row_length}: a prompt and response can have {longest} "
            "tokens; raise it, or use 0 for the least that fits"
        )
    devices = math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)
    rows_per_micro = max(1, tokens // lanes // row_length) * devices
    # Best fit opens a row only when no other has room, so every row but the last holds this many.
    per_row = max(1, row_length // longest)
    rows = -(-sequences // per_row)
    micro_batches = -(-rows // rows_per_micro)
    rows_per_micro = _round_up(-(-rows // micro_batches), devices)  # as even as can be
    shares = shared_prompt > 0
    block = attention_lib.block_places(row_length, platform, shared=shares)
    return BatchShape(row_length, _round_up(rows, rows_per_micro), rows_per_micro, shares, block)


def _shared_row(group: int, tokens: int, platform: str) -> int:
    """The length of rows for groups of so many places in micro-batches of so many `tokens`."""
    if platform != "cpu":
        return _round_up(min(group, tokens), attention_lib.BLOCK)
    row = group if group <= tokens else min(tokens, CPU_SHARED_ROW)
    return _round_up(row, attention_lib.CPU_SHARED_BLOCK)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def rl_batch_shape(config: Config, mesh: jax.sharding.Mesh, attention: str) -> BatchShape:
    """The shape of an RL update. Prompts are shared where that is faster."""
    lacking = attention_lib.missing(attention, mesh.devices.flat[0])
    if lacking:
        raise UserError(f"config.model.attention={attention!r}: {lacking}; use 'xla'")
    prompt, group = config.data.max_prompt_tokens, config.rl.samples_per_prompt
    can_share = attention_lib.can_share_prompts(attention)
    shares = config.batch.share_prompts
    if shares is None:
        is_worth_it = _is_worth_sharing(config, mesh.devices.flat[0].platform)
        shares = is_worth_it and can_share and not config.auxiliary.mtp_loss
    elif shares and not can_share:
        raise UserError(
            f"config.batch.share_prompts: attention {attention!r} cannot do it; leave it out"
        )
    return make_batch_shape(
        config.batch,
        mesh,
        sequences=config.rl.prompts_per_step * group // config.rl.updates_per_step,
        longest=prompt + config.sampling.max_tokens,
        shared_prompt=prompt if shares else 0,
        sharers=group,
    )


def _is_worth_sharing(config: Config, platform: str) -> bool:
    """Measured on a CPU: prompts of 64 tokens, where a tenth of all places or more is saved even if
    every response is as long as it can be. Elsewhere, a guess: long prompts and short responses."""
    prompt, response = config.data.max_prompt_tokens, config.sampling.max_tokens
    if platform != "cpu":
        return prompt >= max(response, attention_lib.BLOCK)
    # On average: a group's samples are dealt at random to the updates of a step.
    sharers = config.rl.samples_per_prompt / config.rl.updates_per_step
    return prompt >= 64 and 10 * prompt * (sharers - 1) >= sharers * (prompt + response)


class Minibatch(NamedTuple):
    """What one update learns from."""

    batch: PackedBatch  # [M, B, T]
    used: int  # micro-batches
    rows: np.ndarray  # of the step's samples


def deal(config: Config, rows: np.ndarray, step: int) -> list[np.ndarray]:
    """The step's samples, dealt at random to its updates: every epoch has all of them, dealt anew.

    Where there are fewer samples than a step wants, every update gets fewer of them.
    """
    updates = config.rl.updates_per_step
    dealt = []
    for epoch in range(config.rl.epochs):
        if updates > 1:
            order = np.random.default_rng([config.seed, step, epoch]).permutation(len(rows))
            dealt += np.array_split(rows[order], updates)
        else:
            dealt.append(rows)
    return [piece for piece in dealt if len(piece)]


def pack_rows(
    shape: BatchShape,
    graded: Graded,
    rows: np.ndarray,
    advantages: np.ndarray,
    counts_R: np.ndarray,
    *,
    likelihood: bool = False,
) -> Minibatch:
    """These rows packed. `advantages`: of responses, [R], or of their tokens, [R, S]. `counts_R`:
    whose tokens are in the loss. `likelihood`: those of right answers in one more, alike."""
    right_R = counts_R & graded.correct
    tokens = int(graded.rollouts.lengths[rows][right_R[rows]].sum())
    weights_R = right_R / max(1, tokens)
    sequences = [
        to_sequence(
            graded,
            row,
            advantages[row],
            bool(counts_R[row]),
            positive=float(weights_R[row]) if likelihood else None,
        )
        for row in rows.tolist()
    ]
    return Minibatch(*pack_micro(sequences, shape), rows)


def pack_micro(sequences: list[packing.Sequence], shape: BatchShape) -> tuple[PackedBatch, int]:
    """(micro-batches, how many of them are used)."""
    packed = packing.pack(
        sequences,
        row_length=shape.row_length,
        rows=shape.rows,
        share_prompts=shape.share_prompts,
        block=shape.block,
    )
    return packing.split_micro(packed, shape.rows_per_micro)


def to_sequence(
    graded: Graded,
    row: int,
    advantage: np.ndarray | np.floating,
    counts: bool,
    *,
    positive: float | None = None,
) -> packing.Sequence:
    rollouts = graded.rollouts
    prompt_index = row // rollouts.samples_per_prompt
    response = rollouts.response(row)
    return packing.Sequence(
        tokens=np.concatenate([rollouts.prompts.tokens[prompt_index], response]),
        mask=np.full(len(response), counts),
        advantages=np.broadcast_to(advantage, rollouts.tokens.shape[1])[: len(response)],
        logp_behavior=rollouts.logp[row, : len(response)],
        prompt_id=prompt_index,
        kept=None if rollouts.kept is None else rollouts.kept[row, : len(response)],
        positive=None if positive is None else np.full(len(response), positive, np.float32),
    )
