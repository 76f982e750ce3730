"""The five types of the straight line, and the letters that name axes.

    prompts ──▶ rollout ──▶ grade ──▶ advantages, pack ──▶ update
    PromptBatch  Rollouts    Graded    PackedBatch          (TrainState, Stats)

| axis | meaning              | axis | meaning           | axis | meaning        |
|------|----------------------|------|-------------------|------|----------------|
| B    | rows                 | L    | layers            | F    | feed-forward   |
| T    | packed tokens        | D    | model width       | V    | vocabulary     |
| S    | cache slots          | N    | query heads       | E    | experts        |
| P    | prompts              | K    | key-value heads   | M    | micro-batches  |
| G    | samples per prompt   | H    | head dim          | R    | P x G rollouts |

The first three types are numpy on the host; the last two are pytrees of arrays on devices.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

Params = Mapping[str, Any]
Stats = dict[str, Any]
Item = Mapping[str, Any]


def as_token_ids(name: str, tokens: Any) -> np.ndarray:
    """[length] int32; nothing is rounded to a token."""
    ids = np.asarray(tokens)
    if ids.size and not (ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"{name}: {ids.dtype} of shape {ids.shape}; give a list of token ids")
    return ids.astype(np.int32).reshape(-1)


@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """P prompts. `ids` are places in the data stream and key each prompt's randomness."""

    ids: np.ndarray  # [P] int64
    tokens: tuple[np.ndarray, ...]  # P arrays of int32, any length
    items: tuple[Item, ...]  # what the graders need: task, question, answer

    def __len__(self) -> int:
        return len(self.tokens)


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """G responses to each prompt, row `p * G + g`; everything after a row's length is zero."""

    prompts: PromptBatch
    tokens: np.ndarray  # [R, S] int32, the ending EOS included
    logp: np.ndarray  # [R, S] float32, under the distribution that was sampled from
    lengths: np.ndarray  # [R] int32
    finished: np.ndarray  # [R] bool, True = the response ended itself, False = it was cut
    # [R, S] float32, under the model's own: temperature 1, nothing added, nothing left out. There
    # with `SamplingParams.return_logp="both"`.
    logp_plain: np.ndarray | None = None
    # [R, S, M] int32, the tokens that could have been drawn, -1 for none: `record_kept`.
    kept: np.ndarray | None = None
    # [R] int32, how many policies before this one the response was begun by: partial rollouts.
    staleness: np.ndarray | None = None

    @property
    def samples_per_prompt(self) -> int:
        return len(self.lengths) // len(self.prompts)

    def response(self, row: int) -> np.ndarray:
        return self.tokens[row, : self.lengths[row]]


@dataclasses.dataclass(frozen=True)
class Graded:
    """Rollouts with their rewards. Rows the grader could not judge are not valid: no loss."""

    rollouts: Rollouts
    texts: tuple[str, ...]  # R decoded responses
    rewards: np.ndarray  # [R] float32
    valid: np.ndarray  # [R] bool, True = the reward may be learned from
    correct: np.ndarray  # [R] bool
    reasoned: np.ndarray  # [R] bool, True = the response works something out before it answers
    answers: tuple[str | None, ...]  # R final answers, None where the form is broken
    parts: Mapping[str, np.ndarray]  # each reward part, [R] float32, before its weight
    # With a function that rewards steps, those of each of R responses: (characters up to a step's
    # end, its reward).
    steps: tuple[Sequence[tuple[int, float]], ...] = ()
    # How the verdicts came about: unparsed, timeout, crash, … (`rewards.grader.count`)
    counts: Mapping[str, float] = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Rows of whole sequences side by side: the places a model reads, and what is predicted there.

    Arrays are [B, T], or [M, B, T] once split into micro-batches. The first four are by place, the
    others by prediction. Prediction t is made at place `sources[t]`: at place t itself, except in
    rows where several responses share their prompt's places (`packing.pack(share_prompts=True)`).
    `segment_ids` and `sequence_ids` count within a row from 1; 0 is padding.
    """

    tokens: Any  # int32
    positions: Any  # int32, restart in each sequence
    segment_ids: Any  # int32, places that see each other
    prefix_ids: Any  # int32, the segment a place sees besides: a shared prompt's. None = no sharing
    sources: Any  # int32, the place that predicts
    targets: Any  # int32
    mask: Any  # bool, True = the prediction of this target counts
    advantages: Any  # float32
    logp_behavior: Any  # float32, what the sampler gave the target
    logp_ref: Any  # float32, what the reference gives it; zeros where no reference is asked for
    sequence_ids: Any  # int32, the sequence that the target is of
    prompt_ids: Any  # int32, which prompt of the batch the sequence answers
    # float32, what the policy gave it at the start of the step, by the trainer's own count; None =
    # what the sampler gave it stands for that
    logp_old: Any = None
    # int32 [B, T, M], the tokens a truncated sampler could have drawn, -1 for none; None = any
    kept: Any = None
    # float32, the target's weight in the likelihood loss of right answers (`rl.positive_nll`); the
    # batch's sum to 1, or to 0 where no answer is right. None = there is no such loss
    positive: Any = None
    # With a critic, float32: its values before the step's updates, and what it is to learn.
    values: Any = None
    returns: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that an update changes. Randomness needs no state: it is keyed by seed and step."""

    params: Any
    opt_state: Any
    step: Any  # int32 scalar, updates done
    # In checkpoints only, where a run has them: the reference it replaced, groups it carries, the
    # samples of the step that comes, the critic's own state, the reward model's.
    reference: Any = None
    carried: Any = None
    ahead: Any = None
    critic: Any = None
    reward_model: Any = None
