"""Shapes of a rollout: few of them, large enough, and refused when they cannot fit."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import TINY, make_tiny

from r1jax.config import from_config_dict
from r1jax.errors import UserError
from r1jax.ops.kv_cache import count_bytes
from r1jax.ops.rope import RopeScaling
from r1jax.rollout import (
    RolloutConfig,
    SamplingParams,
    generate,
    generate_groups,
    plan,
    programs,
)
from r1jax.training.setup import make_setup

MAY_END = SamplingParams(max_tokens=100, stop_ids=(1,))
NEVER_END = SamplingParams(max_tokens=100)


def make(lengths=(5, 9), samples=4, sampling=MAY_END, multiple=1, **config):
    return plan.make_plan(
        lengths,
        samples_per_prompt=samples,
        sampling=sampling,
        config=RolloutConfig(**config),
        row_multiple=multiple,
    )


def test_prompt_buckets_are_few_and_waste_at_most_half():
    buckets = {plan.prompt_bucket(length) for length in range(1, 5000)}
    assert len(buckets) < 20
    assert all(
        length <= plan.prompt_bucket(length) < 16 + 1.5 * length for length in range(1, 5000)
    )


@pytest.mark.parametrize("most", [1, 2, 12, 128, 129, 384, 5000, 32768])
@pytest.mark.parametrize("first", [0, 1, 100])
def test_rooms_grow_to_what_the_longest_response_needs(most, first):
    rooms = plan.make_rooms(most, first)
    assert rooms[-1] >= most - 1
    assert rooms[-1] < most + 8
    assert sorted(rooms) == list(rooms)
    assert first or len(rooms) <= 3
    assert not first or rooms[0] <= first + 7


@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("slots", [0, 1, 5, 100])
@pytest.mark.parametrize("share", ["always", "never"])
def test_slots_are_whole_units_that_split_over_devices(multiple, slots, share):
    made = make(lengths=[5] * 9, slots=slots, share_prompts=share, multiple=multiple, tail_from=1)
    for units in made.sizes:
        assert units * made.unit % multiple == 0
    assert made.bank_prompts % multiple == 0
    assert made.sizes[0] * made.unit == made.slots
    assert made.unit in (1, 4)
    assert list(made.sizes) == sorted(set(made.sizes), reverse=True)


def test_a_tail_on_a_cpu_goes_down_to_two_rows_in_each_of_two_lanes():
    assert make(lengths=[5] * 20, slots=40, tail_from=1, lanes=2).sizes == (20, 12, 8, 4, 2)
    assert make(lengths=[5] * 20, slots=40, tail_from=1, lanes=1).sizes == (40, 24, 16, 8, 4)
    assert make(lengths=[5] * 20, slots=8, tail_from=1, lanes=2).sizes == (4, 2)
    assert make(lengths=[5] * 20, slots=40, lanes=2).sizes == (20,)


@pytest.mark.parametrize("lanes", [0, 1, 2, 3, 100])
@pytest.mark.parametrize("share", ["always", "never"])
def test_lanes_have_slots_and_prompts_for_all_of_them(lanes, share):
    made = make(lengths=[5] * 9, slots=24, lanes=lanes, share_prompts=share)
    assert 1 <= made.lanes <= (lanes or 2)
    assert 24 <= made.lanes * made.slots < 24 + made.lanes * made.unit
    assert 9 <= made.lanes * made.bank_prompts < 9 + made.lanes
    assert made.lanes <= 9


def test_small_rollouts_and_meshes_have_one_lane():
    assert make(lengths=[5], samples=30).lanes == 1
    assert make(lengths=[5] * 30, slots=4).lanes == 1
    devices = np.array(jax.devices()[:2]).reshape(2, 1, 1, 1)
    with jax.set_mesh(jax.sharding.Mesh(devices, ("data", "fsdp", "expert", "tensor"))):
        assert make(lengths=[5] * 30, slots=8, multiple=2).lanes == 1
        with pytest.raises(UserError, match=r"rollout.lanes=2: 2 devices .* use 1"):
            make(lengths=[5] * 30, slots=8, multiple=2, lanes=2)
    config = {"model": {"layers": 1}, "rollout": {"lanes": 2}, "mesh": {"data": 2}}
    with pytest.raises(UserError, match=r"config.rollout.lanes=2: 2 devices"):
        make_setup(from_config_dict(config))  # before a run has begun


def test_a_prompt_is_shared_where_its_responses_end_together_or_it_is_long():
    assert make(sampling=NEVER_END).unit == 4
    assert make(sampling=MAY_END).unit == 1
    assert make(lengths=[1000], sampling=MAY_END, slots=4).unit == 4
    assert make(lengths=[1000], sampling=MAY_END, slots=3).unit == 1  # a unit would not fit
    assert make(lengths=[1000], sampling=MAY_END, share_prompts="never").unit == 1
    assert make(lengths=[5], sampling=MAY_END, share_prompts="always").unit == 4


@pytest.mark.parametrize(("on_cpu", "times"), [(True, 8), (False, 2)])
def test_the_border_of_sharing_is_that_of_the_machine(on_cpu, times, monkeypatch):
    monkeypatch.setattr(plan, "_on_cpu", lambda: on_cpu)
    for max_tokens in (32, 96):
        may_end = dataclasses.replace(MAY_END, max_tokens=max_tokens)
        assert make(lengths=[times * max_tokens], sampling=may_end).unit == 4
        shorter = [times * max_tokens // 2]
        assert make(lengths=shorter, sampling=may_end).unit == 1


def test_cache_bytes_are_what_the_caches_take():
    made = make(lengths=[20] * 3, slots=6, room=16)
    sizes = (made.bank_prompts + made.sizes[0]) * made.prompt_room
    sizes += made.slots * (made.rooms[-1] + made.rooms[-2])
    heads, key, value = TINY.cache_dims
    wanted = sizes * TINY.layers * heads * (key + value) * 4
    assert plan.count_cache_bytes(TINY, made) == wanted * made.lanes
    assert count_bytes([]) == 0


def test_caches_too_large_for_the_machine_are_refused_before_anything_is_compiled(monkeypatch):
    made = make(lengths=[20])
    plan.require_memory(TINY, made, devices=1, free=None)
    with pytest.raises(UserError, match=r"slots.*need 0\.0 GB.*lower config.rollout.slots") as told:
        plan.require_memory(TINY, made, devices=1, free=1000)
    assert str(told.value).endswith("share_prompts=always keeps a prompt once for its responses")
    for fewest in (make(lengths=[20], share_prompts="always"), make(lengths=[20], samples=1)):
        with pytest.raises(UserError, match=r"bank_tokens$"):
            plan.require_memory(TINY, fewest, devices=1, free=1000)
    monkeypatch.setattr(plan, "free_memory", lambda _: 1000)
    with pytest.raises(UserError, match="lower config"):
        generate(
            *make_tiny(),
            [[1]],
            sampling=SamplingParams(max_tokens=77),
            samples_per_prompt=1,
            seed=0,
        )


@pytest.mark.parametrize(
    ("scaling", "reach"),
    [
        (RopeScaling(), 100),
        (RopeScaling("yarn", factor=4.0, original_positions=50), 200),
        (RopeScaling("llama3", factor=8.0, original_positions=10), 100),
        (RopeScaling("linear", factor=2.0), 200),
    ],
)
def test_texts_longer_than_the_model_knows_are_refused(scaling, reach):
    config = dataclasses.replace(TINY, max_positions=100, rope_scaling=scaling)
    plan.require_places(config, reach - 40, 40)
    with pytest.raises(UserError, match=rf"{reach - 39} tokens and 40.*knows {reach} places"):
        plan.require_places(config, reach - 39, 40)
    plan.require_places(dataclasses.replace(config, max_positions=0), 10**6, 40)  # nobody said


def test_a_rollout_refuses_what_the_model_does_not_know():
    module, params = make_tiny(max_positions=10)
    options = {"samples_per_prompt": 1, "seed": 0}
    with pytest.raises(UserError, match="knows 10 places"):
        generate(module, params, [[1] * 4], sampling=SamplingParams(max_tokens=7), **options)
    with pytest.raises(UserError, match="knows 10 places"):
        generate_groups(
            module,
            params,
            [],
            lambda _: True,
            want=1,
            budget=1,
            longest_prompt=4,
            sampling=SamplingParams(max_tokens=7),
            **options,
        )


def test_this_machine_says_how_much_memory_is_free():
    free = plan.free_memory(jax.devices()[0])
    assert free is not None
    assert 1e8 < free < 1e14


@pytest.mark.parametrize(
    "change", [{"slots": -1}, {"lanes": -1}, {"chunk": -1}, {"prefill_chunk": 0}]
)
def test_impossible_settings_are_refused_by_name(change):
    with pytest.raises(ValueError, match=f"rollout.{next(iter(change))}"):
        RolloutConfig(**change)


def test_there_are_as_many_decoding_programs_as_the_plan_says():
    made = make(lengths=[5] * 9, sampling=dataclasses.replace(MAY_END, max_tokens=1000), slots=32)
    shapes = programs.decoding_shapes(made)
    assert len(shapes) == len(set(shapes)) <= 9
    assert shapes[0] == (made.sizes[0], made.rooms[0])


def test_the_smallest_sizes_of_a_tail_have_programs_for_the_last_room_only():
    made = make(lengths=[5] * 20, slots=40, tail_from=1, room=16, lanes=2)
    assert len(made.rooms) > 3
    by_room = [made.sizes_with(room) for room in range(len(made.rooms))]
    assert by_room[0] == (20,)
    assert by_room[-1] == (20, 12, 8, 4, 2)
    assert set(by_room[1:-1]) == {(20, 12, 8)}
    one_room = dataclasses.replace(made, rooms=(64,))
    assert one_room.sizes_with(0) == made.sizes
