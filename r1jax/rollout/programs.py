"""The jitted functions of `decode` for one rollout, and what is asked of them."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.mesh import BATCH_AXES
from r1jax.models.config import ModelConfig
from r1jax.ops.sampling import SamplingArrays, SamplingParams, row_keys
from r1jax.rollout import decode
from r1jax.rollout import plan as planning
from r1jax.rollout.plan import Plan, RolloutConfig
from r1jax.types import PromptBatch


class Requests(NamedTuple):
    """P prompts and the G responses wanted to each, as `decode.Waiting` has them; or P responses
    that go on (G = 1), each with a text of its own: its prompt and what it has."""

    prompts: Sequence[np.ndarray]
    rows: np.ndarray
    limits: np.ndarray
    starts: np.ndarray
    keys: np.ndarray

    def take(self, chosen: np.ndarray) -> "Requests":
        arrays = (leaf[chosen] for leaf in self[1:])
        return Requests([self.prompts[index] for index in chosen], *arrays)


def make_requests(
    prompts: PromptBatch, plan: Plan, *, first: int, seed: int, steps_P: int | np.ndarray
) -> Requests:
    """All responses to these prompts; the first comes out at row `first`. With the seed, the step
    in which a response begins, its prompt's id and its number name its randomness."""
    ids_PG = np.repeat(prompts.ids[:, None], plan.samples_per_prompt, axis=1).astype(np.uint32)
    steps_P = np.broadcast_to(steps_P, len(ids_PG)).astype(np.int32)
    return Requests(
        prompts=prompts.tokens,
        rows=first + np.arange(ids_PG.size, dtype=np.int32).reshape(ids_PG.shape),
        limits=np.full(ids_PG.shape, plan.max_tokens, np.int32),
        starts=np.zeros(ids_PG.shape, np.int32),
        keys=_key_data(seed, steps_P, ids_PG, plan.bank_prompts),
    )


_SEEN: set[Any] = set()  # plans whose programs have been compiled, in this process


@dataclasses.dataclass(frozen=True)
class Programs:
    """The jitted functions of `decode` with what stays the same during a rollout."""

    model: ModelConfig
    decode_params: Any
    config: RolloutConfig
    plan: Plan
    sampling: SamplingParams

    @functools.cached_property
    def sampling_arrays(self) -> SamplingArrays:
        return SamplingArrays.of(self.sampling, self.model.vocab_size)

    def empty_bank(self) -> decode.Bank:
        plan = self.plan
        return decode.empty_bank(
            self.model,
            plan.bank_prompts,
            plan.samples_per_prompt,
            plan.prompt_room,
            variant=plan.variant,
        )

    def empty_loop(self, units: int, room: int) -> decode.Loop:
        plan = self.plan
        slots = decode.empty_slots(
            self.model,
            units * plan.unit,
            units,
            plan.prompt_room,
            room,
            variant=plan.variant,
            text_room=plan.text_room,
        )
        outputs = decode.empty_outputs(plan.rows, plan.max_tokens, variant=plan.variant)
        return decode.empty_loop(slots, outputs)

    def run(
        self, loop: decode.Loop, bank: decode.Bank, *, units: int, more: bool, chunk: int
    ) -> tuple[decode.Loop, decode.Report]:
        return decode.decode(
            self.model,
            self.decode_params,
            loop,
            bank,
            self.sampling_arrays,
            units=np.int32(units),
            more=np.bool_(more),
            chunk=np.int32(chunk),
            variant=self.plan.variant,
        )

    def end_rows(self, loop: decode.Loop, rows: np.ndarray, lengths: np.ndarray) -> decode.Loop:
        outputs, slot_rows, filled = decode.end_rows(
            loop.outputs, loop.slots.rows, loop.slots.filled, rows, lengths
        )
        return loop._replace(
            slots=loop.slots._replace(rows=slot_rows, filled=filled), outputs=outputs
        )

    def read(
        self, bank: decode.Bank, outputs: decode.Outputs, requests: Requests
    ) -> tuple[decode.Bank, decode.Outputs]:
        """All prompts into the bank, in their order, those of like length by one program."""
        widths = np.array([planning.prompt_bucket(len(tokens)) for tokens in requests.prompts])
        for width in sorted(set(widths.tolist())):
            members = np.flatnonzero(widths == width)
            at_once = self._prompts_at_once(width)
            for first in range(0, len(members), at_once):
                chosen = members[first : first + at_once]
                bank, outputs = self._read_some(bank, outputs, requests, chosen, width, at_once)
        return bank, outputs

    def _prompts_at_once(self, width: int) -> int:
        multiple = count_batch_shards()
        wanted = max(1, min(self.plan.bank_prompts, self.config.prefill_tokens // width))
        return -(-wanted // multiple) * multiple

    def _read_some(
        self,
        bank: decode.Bank,
        outputs: decode.Outputs,
        requests: Requests,
        chosen: np.ndarray,
        width: int,
        at_once: int,
    ) -> tuple[decode.Bank, decode.Outputs]:
        tokens = np.zeros((at_once, width), np.int32)
        lengths = np.ones(at_once, np.int32)
        for place, index in enumerate(chosen):
            prompt = requests.prompts[index]
            tokens[place, : len(prompt)] = prompt
            lengths[place] = len(prompt)
        missing = at_once - len(chosen)
        padded = requests.take(np.append(chosen, np.repeat(chosen[:1], missing)))
        places = np.append(chosen, np.repeat(self.plan.bank_prompts, missing)).astype(np.int32)
        padded.rows[len(chosen) :] = self.plan.rows
        samples = padded.rows.shape[1]
        queue = places[:, None] * samples + np.arange(samples, dtype=np.int32)
        queue[len(chosen) :] = self.plan.bank_prompts * self.plan.samples_per_prompt
        prompts = np.broadcast_to(places[:, None], queue.shape)
        return decode.read_prompts(
            self.model,
            self.decode_params,
            bank,
            outputs,
            tokens,
            lengths,
            places,
            queue,
            decode.Waiting(*map(jnp.asarray, (prompts, *padded[1:]))),
            self.sampling_arrays,
            chunk=self.config.prefill_chunk,
            variant=self.plan.variant,
        )

    def warm_up(self) -> None:
        """Compile the decoding programs of a plan at its first use, and those that lead from one to
        the next, so that no later rollout meets one it has not seen: which ones a rollout needs
        depends on how long its responses get."""
        of_params = jax.tree.structure(self.decode_params)
        ends_rows = bool(self.sampling.stop_strings)
        seen = (self.model, self.plan, of_params, jax.sharding.get_mesh(), ends_rows)
        if seen in _SEEN:
            return
        planning.require_memory(
            self.model,
            self.plan,
            max(1, jax.sharding.get_mesh().size),
            planning.free_memory(jax.local_devices()[0]),
        )
        bank = self.empty_bank()
        for units, room in decoding_shapes(self.plan):
            loop = self.empty_loop(units, room)
            # Waited for: the next one's caches are made when this one's are gone.
            loop, _ = jax.block_until_ready(self.run(loop, bank, units=0, more=False, chunk=1))
            if ends_rows:
                nobody = np.full(self.plan.fetched, self.plan.rows, np.int32)
                loop = self.end_rows(loop, nobody, 0 * nobody)
            at = self.plan.rooms.index(room)
            if room < self.plan.rooms[-1]:
                jax.block_until_ready(decode.give_room(loop.slots.suffix, self.plan.rooms[at + 1]))
            if size := self.plan.next_size(units, at):
                jax.block_until_ready(decode.keep_busy(loop.slots, size))
            del loop
        _SEEN.add(seen)


def decoding_shapes(plan: Plan) -> list[tuple[int, int]]:
    """(units, room) of every decoding program."""
    return [(size, room) for at, room in enumerate(plan.rooms) for size in plan.sizes_with(at)]


def split_requests(requests: Requests, plan: Plan) -> list[Requests]:
    """Fillings of a bank: as few and as equal as can be, and one for every lane."""
    everything = np.arange(len(requests.prompts))
    fillings = max(-(-everything.size // plan.bank_prompts), min(plan.lanes, everything.size))
    return [requests.take(part) for part in np.array_split(everything, fillings)]


def _key_data(seed: int, steps_P: np.ndarray, ids_PG: np.ndarray, at_once: int) -> np.ndarray:
    """[P, G, 2], of a few prompts at once: one program, however many there are."""
    prompts, samples = ids_PG.shape
    steps_P = np.pad(steps_P, (0, -prompts % at_once))
    ids_PG = np.pad(ids_PG, ((0, -prompts % at_once), (0, 0)))
    parts = [
        _keys_of_groups(seed, steps_P[first : first + at_once], ids_PG[first : first + at_once])
        for first in range(0, len(ids_PG), at_once)
    ]
    return np.concatenate([np.zeros((0, samples, 2), np.uint32), *parts])[:prompts]


@jax.jit
def _keys_of_groups(seed: Any, steps_P: Any, ids_PG: Any) -> jax.Array:
    samples_G = jnp.arange(ids_PG.shape[1], dtype=jnp.uint32)

    def group(step: Any, ids_G: Any) -> jax.Array:
        return jax.random.key_data(row_keys(seed, step, ids_G, samples_G))

    return jax.vmap(group)(steps_P, ids_PG)


def count_batch_shards() -> int:
    """Over how many shards rows lie: their number is made a multiple of it."""
    mesh = jax.sharding.get_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
