"""What a rollout keeps on the device, between the programs of `decode` and inside their loop."""

import dataclasses
from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Float, Int, UInt32

from r1jax.ops.kv_cache import Caches

IDLE = -1  # a slot's row when it has none
GOING, STOPPED, CUT = 0, 1, 2  # why a response ended: not yet, by a stop id, by its limit


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is compiled into the programs of a rollout."""

    speculate: Literal["none", "ngram", "mtp"] = "none"
    draft_tokens: int = 0  # checked by one step
    ngram: int = 0  # tokens that must occur again to be followed
    plain_logp: bool = False  # `SamplingParams.return_logp`
    int8_cache: bool = False
    turned_keys: bool = False  # `kv_cache.LayerCache.turned`
    kept: int = 0  # tokens written down for `SamplingParams.record_kept`


class Outputs(NamedTuple):
    """What came out so far, by row: response r, wherever it was decoded."""

    tokens: Int[Array, "R S"]
    logp: Float[Array, "R S"]
    logp_plain: Float[Array, "R S"] | None  # where it is asked for
    kept: Int[Array, "R S M"] | None  # where it is asked for; -1 for none
    lengths: Int[Array, " R"]
    endings: Int[Array, " R"]  # GOING, STOPPED or CUT


class Waiting(NamedTuple):
    """Responses that wait for a slot, in a queue [W]; before they are put there, [P, G]."""

    prompts: Int[Array, "*W"]  # where in the bank their prompts lie; those of a unit share one
    rows: Int[Array, "*W"]  # where they come out; past the last row = nobody
    limits: Int[Array, "*W"]  # tokens they may have
    starts: Int[Array, "*W"]  # tokens they had before this rollout: their randomness goes on there
    keys: UInt32[Array, "*W 2"]


class Bank(NamedTuple):
    """Prompts that have been read, and the responses to them that wait."""

    caches: Caches  # [P, K, S, H]
    lengths: Int[Array, " P"]
    waiting: Waiting
    first: Int[Array, " W"]  # each response's first token
    memory: Any  # what drafts begin with: `speculative.remember`


class Slots(NamedTuple):
    """B responses in the making. `token` is sampled and not yet read."""

    rows: Int[Array, " B"]  # IDLE where there is none
    tokens: Int[Array, " B"]
    filled: Int[Array, " B"]  # tokens of the response in the suffix
    prefix_lengths: Int[Array, " B"]
    limits: Int[Array, " B"]
    starts: Int[Array, " B"]
    keys: UInt32[Array, "B 2"]
    prefix: Caches  # [B / U, K, S, H]
    suffix: Caches  # [B, K, S, H]
    memory: Any  # what drafts are made from: `speculative.Text`, `speculative.States` or None


class Loop(NamedTuple):
    slots: Slots
    outputs: Outputs
    next_unit: Int[Array, ""]  # of the bank
    steps: Int[Array, ""]  # of decoding, all chunks together
    busy_steps: Float[Array, ""]  # slots that had a response, summed over steps
    drafted: Float[Array, ""]  # tokens
    accepted: Float[Array, ""]  # of them


class Report(NamedTuple):
    """What the host looks at between chunks, while the next one is already running."""

    endings: Int[Array, " R"]
    next_unit: Int[Array, ""]
    busy_units: Int[Array, ""]
    most_filled: Int[Array, ""]
    steps: Int[Array, ""]
    busy_steps: Float[Array, ""]
    drafted: Float[Array, ""]
    accepted: Float[Array, ""]
