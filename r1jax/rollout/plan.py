"""What a rollout will need, decided on the host before anything is compiled: shapes and bytes."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from r1jax.aside import require_one_lane
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.ops.kv_cache import count_bytes
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout import decode
from r1jax.rollout.state import Variant


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How responses are decoded. Changes memory and speed, never a response, but for int8."""

    slots: int = 0  # responses decoded at once; 0 = `choose_slots`
    lanes: int = 0  # loops side by side that share out the slots; 0 = `choose_lanes`
    chunk: int = 0  # decoding steps between two looks from the host; 0 = `choose_chunk`
    share_prompts: Literal["auto", "always", "never"] = "auto"  # one cache for a prompt's responses
    room: int = 0  # tokens a slot first has room for, doubled as responses grow; 0 = `make_rooms`
    tail_from: int = 128  # max_tokens from which a rollout's tail gets programs of fewer slots
    prefill_tokens: int = 4096  # prompt tokens read by one program
    prefill_chunk: int = 1024  # of them, a prompt's tokens read at once
    bank_tokens: int = 1 << 20  # prompt tokens that may lie read and waiting
    speculate: Literal["none", "ngram", "mtp"] = "none"  # who drafts: `rollout.speculative`
    draft_tokens: int = 4  # drafted and checked by one step
    ngram: int = 3  # tokens that must occur again for what followed them to be drafted
    # Rounded to eight bits, so that the sampler is not quite the policy: `objective.correction`.
    int8_weights: bool = False  # projections of the layers: `rollout.prepare_params(int8=)`
    int8_cache: bool = False  # keys and values

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("slots", "lanes", "chunk", "room") else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ValueError(f"rollout.{field.name}={value}: must be {least} or more")

    @property
    def variant(self) -> Variant:
        if self.speculate == "none":
            return Variant(int8_cache=self.int8_cache)
        ngram = self.ngram if self.speculate == "ngram" else 0
        return Variant(self.speculate, self.draft_tokens, ngram, int8_cache=self.int8_cache)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shapes of one rollout. Slots, units and banks are those of a lane."""

    rows: int  # responses
    samples_per_prompt: int
    max_tokens: int
    lanes: int
    slots: int
    unit: int  # neighbouring slots that share a prompt's cache
    prompt_room: int
    rooms: tuple[int, ...]  # what a slot has room for, from first to last
    sizes: tuple[int, ...]  # units decoded at once, from first to last
    chunk: int
    bank_prompts: int
    variant: Variant

    def sizes_with(self, room: int) -> tuple[int, ...]:
        """Those of `sizes` that have a program for slots of `rooms[room]`: all of them for the last
        room, which a tail comes to; those of a quarter or more for rooms between, to compile fewer;
        for the first, where most slots are busy, only all slots."""
        if room == len(self.rooms) - 1:
            return self.sizes
        least = self.sizes[0] if room == 0 else self.sizes[0] / 4
        return tuple(size for size in self.sizes if size >= least)

    def next_size(self, units: int, room: int) -> int | None:
        """What so many units of `rooms[room]` come down to next, None where they stay."""
        sizes = self.sizes_with(room)
        return next((size for size in sizes if size < units), None)

    @property
    def fetched(self) -> int:
        """Responses copied to the host by one program."""
        return min(64, self.rows)

    @property
    def per_step(self) -> int:
        """Tokens that a slot reads in a step: its last one and the drafts behind it."""
        return 1 + self.variant.draft_tokens

    @property
    def text_room(self) -> int:
        return self.prompt_room + self.max_tokens + self.variant.draft_tokens


# Few widths, so that few programs are compiled: powers of two and the middles between them.
def prompt_bucket(length: int) -> int:
    """The width that prompts of this length are padded to."""
    power = 16
    while power < length:
        power *= 2
    return power * 3 // 4 if 16 < length <= power * 3 // 4 else power


def make_plan(
    lengths: Sequence[int] | np.ndarray,
    *,
    groups: int | None = None,
    samples_per_prompt: int,
    sampling: SamplingParams,
    config: RolloutConfig,
    row_multiple: int,
) -> Plan:
    """`lengths`: of all that has to be read, one for each of the `groups` unless responses go on.
    `row_multiple`: slots and banks are multiples of it, to be split over devices."""
    prompts = len(lengths) if groups is None else groups
    rows = prompts * samples_per_prompt
    prompt_room = prompt_bucket(int(max(lengths, default=1)))
    may_end = bool(sampling.stop_ids or sampling.stop_strings)
    has_tail = may_end and sampling.max_tokens >= config.tail_from
    slots = config.slots or choose_slots(rows, may_end=may_end, has_tail=has_tail)
    shared = choose_sharing(config.share_prompts, prompt_room, sampling.max_tokens, may_end=may_end)
    unit = samples_per_prompt if shared and samples_per_prompt <= slots else 1
    slots = min(slots, rows)
    require_one_lane("rollout", config.lanes, jax.sharding.get_mesh().size)
    lanes = min(config.lanes or choose_lanes(slots), prompts, slots // unit)
    multiple = unit * row_multiple
    slots = -(-slots // (lanes * multiple)) * multiple
    units = slots // unit
    bank = max(1, min(-(-prompts // lanes), config.bank_tokens // prompt_room))
    return Plan(
        rows=rows,
        samples_per_prompt=samples_per_prompt,
        max_tokens=sampling.max_tokens,
        lanes=lanes,
        slots=slots,
        unit=unit,
        prompt_room=prompt_room,
        rooms=make_rooms(sampling.max_tokens, config.room, config.variant.draft_tokens),
        sizes=make_sizes(units, unit * lanes, row_multiple) if has_tail else (units,),
        chunk=config.chunk or choose_chunk(has_tail),
        bank_prompts=-(-bank // row_multiple) * row_multiple,
        variant=dataclasses.replace(
            config.variant,
            plain_logp=sampling.return_logp == "both",
            kept=sampling.top_k if sampling.record_kept else 0,
            turned_keys=_on_cpu() and not config.int8_cache,
        ),
    )


def choose_slots(rows: int, *, may_end: bool, has_tail: bool) -> int:
    """All responses at once, where a step costs what it costs to read the weights: accelerators.

    On a CPU a step costs what its rows cost, so idle ones should be few: fewer slots, filled again.
    Measured with benchmarks/rollout.py on `stagger` and on the tiny R1-Zero: five in eight where a
    tail gets fewer slots, else three.
    """
    if may_end and _on_cpu():
        return max(8, -(-rows * (5 if has_tail else 3) // 8))
    return rows


def choose_lanes(slots: int) -> int:
    """Two, where a second core hardly helps a loop's small products but can run a loop of its own:
    on a CPU. More were not measured on more cores."""
    return 2 if _on_cpu() and jax.sharding.get_mesh().size <= 1 and slots >= 8 else 1


def choose_chunk(has_tail: bool) -> int:
    """A look costs little, and idle slots are found by looking."""
    return 8 if has_tail and _on_cpu() else 32


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def choose_sharing(
    wanted: Literal["auto", "always", "never"],
    prompt_room: int,
    max_tokens: int,
    *,
    may_end: bool,
) -> bool:
    """Whether one cache of a prompt serves all its responses, or each has a copy. A shared one is
    read once, but its slots are filled again only when all of its responses are over.

    Measured on a CPU with benchmarks/sharing.py: where responses end by themselves that pays from
    prompts on that are eight times as long as a response may be (docs/rollout.md). Not measured on
    accelerators, where reading caches is what a step costs, and slots are seldom filled again.
    """
    if wanted != "auto":
        return wanted == "always"
    return not may_end or prompt_room >= (8 if _on_cpu() else 2) * max_tokens


def make_rooms(max_tokens: int, first: int, drafts: int = 0) -> tuple[int, ...]:
    """first, 2 first, 4 first, ... up to what `max_tokens` tokens need: the last is never read, but
    drafts are.

    Attention reads a slot's whole room, so it should not be the largest from the start; but every
    room is another program to compile, so there are three at most unless `first` says otherwise.
    """
    most = max(max_tokens - 1, 1) + drafts
    least = 64 if _on_cpu() else 128  # there a step costs what it reads
    rooms = [min(max(first or max(least, -(-most // 4)), 1 + drafts), most)]
    while rooms[-1] < most:
        rooms.append(min(rooms[-1] * 2, most))
    return tuple(dict.fromkeys(-(-room // 8) * 8 for room in rooms))


def make_sizes(units: int, unit: int, row_multiple: int) -> tuple[int, ...]:
    """Numbers of units to decode with, from all to the few that a rollout's tail needs: every one
    of them is some more programs to compile."""
    sizes = [units]
    # The last one or two of a lane cost a CPU half of what four do: `linear.multiply`.
    shares, least = ((0.6, 0.4, 0.2, 0.1), 4) if _on_cpu() else ((0.25, 0.0625), 8)
    for share in shares:
        size = -(-max(int(units * share), least // unit, 1) // row_multiple) * row_multiple
        if size <= sizes[-1] * 0.7:
            sizes.append(size)
    return tuple(sizes)


def count_cache_bytes(config: ModelConfig, plan: Plan) -> int:
    """Caches at their largest: banks, prefixes, suffixes, and the suffixes they grew out of."""
    *before, largest = plan.rooms
    shapes = [
        (plan.bank_prompts, plan.prompt_room),
        (plan.sizes[0], plan.prompt_room),
        (plan.slots, largest + max(before, default=0)),
    ]
    make = functools.partial(decode.empty_caches, config, plan.variant)
    return plan.lanes * sum(
        count_bytes(jax.eval_shape(functools.partial(make, rows, slots))) for rows, slots in shapes
    )


def require_places(config: ModelConfig, longest: int, max_tokens: int) -> None:
    """A model says nothing sensible behind the last place that it knows."""
    if 0 < config.reach < longest + max_tokens:
        raise UserError(
            f"a prompt of {longest} tokens and {max_tokens} of a response: the model knows "
            f"{config.reach} places. Lower data.max_prompt_tokens or sampling.max_tokens; or, for "
            "a model that is to learn longer texts, raise max_position_embeddings in its "
            "config.json"
        )


def require_memory(config: ModelConfig, plan: Plan, devices: int, free: int | None) -> None:
    """Say so before compiling for minutes, when the caches alone cannot fit."""
    needed = count_cache_bytes(config, plan) // devices
    if free is not None and needed > free:
        lower = "config.rollout.slots, config.sampling.max_tokens or config.rollout.bank_tokens"
        if plan.unit < plan.samples_per_prompt <= plan.slots:
            lower += "; config.rollout.share_prompts=always keeps a prompt once for its responses"
        raise UserError(
            f"rollout: the caches of {plan.lanes} x {plan.slots} slots x ({plan.prompt_room} "
            f"prompt + {plan.rooms[-1]} response) tokens and {plan.lanes} x {plan.bank_prompts} "
            f"waiting prompts need {needed / 1e9:.1f} GB a device, {free / 1e9:.1f} GB are free: "
            f"lower {lower}"
        )


def free_memory(device: Any) -> int | None:
    """Bytes this device can still give, None where nobody says."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if device.platform == "cpu":
        return _free_host_memory()
    return None


def _free_host_memory() -> int | None:
    try:
        with open("/proc/meminfo") as lines:
            found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    except OSError:  # not Linux
        return None
    return found[0] * 1024 if found else None
