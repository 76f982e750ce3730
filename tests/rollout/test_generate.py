"""Responses: the model's own log-probs, where they end, and that company does not matter."""

import dataclasses
import functools
import threading

import jax
import numpy as np
import pytest
from helpers import TINY, as_users_call, counted_compiles, log_softmax, make_tiny

from r1jax import models
from r1jax.errors import UserError
from r1jax.ops.kv_cache import count_bytes
from r1jax.ops.linear import TURNED_ROWS
from r1jax.rollout import (
    RolloutConfig,
    SamplingParams,
    decode,
    dispatch,
    generate,
    generate_groups,
    prepare_params,
)
from r1jax.rollout.engine import as_prompt_batch
from r1jax.rollout.plan import prompt_bucket
from r1jax.rollout.programs import Programs
from r1jax.types import PromptBatch

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [2, 2]]
EOS = 0
SAMPLING = SamplingParams(max_tokens=12, stop_ids=(EOS,))
DEFAULTS = RolloutConfig()


@functools.cache
def tiny(**changes):
    return make_tiny(**changes)


def start(prompts=PROMPTS, *, samples=3, seed=0, step=0, config=DEFAULTS, **changes):
    options = {name: changes.pop(name) for name in ("sampling", "decode_text") if name in changes}
    module, params = tiny(**changes)
    return dispatch(
        module,
        prepare_params(module.config, params),
        as_prompt_batch(prompts),
        samples_per_prompt=samples,
        seed=seed,
        step=step,
        config=config,
        **{"sampling": SAMPLING, **options},
    )


def sample(*arguments, **options):
    return start(*arguments, **options).collect()


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, tokens):
    return module.apply({"params": params}, tokens)


def teacher_forced_logits(rollouts, **changes):
    """For each row, what the training path gives the places its tokens were sampled from."""
    tokens = np.zeros((len(rollouts.lengths), 32), np.int32)
    starts = [len(p) for p in rollouts.prompts.tokens for _ in range(rollouts.samples_per_prompt)]
    ends = starts + rollouts.lengths
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        tokens[row, :start] = rollouts.prompts.tokens[row // rollouts.samples_per_prompt]
        tokens[row, start:end] = rollouts.response(row)
    logits = np.asarray(apply(*tiny(**changes), tokens))
    return [x[start - 1 : end - 1] for x, start, end in zip(logits, starts, ends, strict=True)]


def assert_log_probs_are_of(rollouts, logits, which="logp"):
    """Each recorded log-prob is the softmax's, of the logits of its place, at its token."""
    found = getattr(rollouts, which)
    for row, length in enumerate(rollouts.lengths):
        wanted = log_softmax(logits[row])[np.arange(length), rollouts.response(row)]
        np.testing.assert_allclose(found[row, :length], wanted, atol=1e-5)
        assert not found[row, length:].any()


@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm": True, "qkv_bias": True, "tied_head": False, "kv_heads": 1}], ids=str
)
def test_log_probs_equal_the_training_path(changes):
    for temperature in (1.0, 0.7):
        rollouts = sample(
            sampling=dataclasses.replace(SAMPLING, temperature=temperature), **changes
        )
        logits = teacher_forced_logits(rollouts, **changes)
        assert_log_probs_are_of(rollouts, [x / temperature for x in logits])


def test_a_bfloat16_sampler_is_near_its_trainer():
    """Both round every activation; the head is float32 in both. Caches take half the bytes."""
    rollouts = sample(dtype="bfloat16")
    logits = teacher_forced_logits(rollouts, dtype="bfloat16")
    gaps = [
        rollouts.logp[row, :length] - log_softmax(x)[np.arange(length), rollouts.response(row)]
        for row, (length, x) in enumerate(zip(rollouts.lengths, logits, strict=True))
    ]
    gap = np.abs(np.concatenate(gaps))
    assert gap.mean() < 0.01
    assert gap.max() < 0.1
    caches = [
        jax.eval_shape(functools.partial(decode.empty_caches, config, decode.PLAIN, 2, 8))
        for config in (tiny()[0].config, tiny(dtype="bfloat16")[0].config)
    ]
    assert count_bytes(caches[0]) == 2 * count_bytes(caches[1])


def test_filtered_log_probs_are_of_the_renormalised_distribution():
    rollouts = sample(sampling=dataclasses.replace(SAMPLING, top_k=3))
    logits = teacher_forced_logits(rollouts)
    third = [np.sort(x, axis=-1)[:, -3:-2] for x in logits]
    kept = [np.where(x >= t, x, -np.inf) for x, t in zip(logits, third, strict=True)]
    assert_log_probs_are_of(rollouts, kept)


SPEAKING = dataclasses.replace(SAMPLING, return_logp="both")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(DEFAULTS, id="plain"),
        pytest.param(RolloutConfig(speculate="ngram", ngram=1, chunk=2, slots=5), id="drafts"),
    ],
)
def test_plain_log_probs_are_the_models_own_whatever_was_sampled_from(config):
    """And asking for them changes nothing else, nor do other values compile anything."""
    wishes = [
        {"temperature": 0.7, "top_k": 3},
        {"temperature": 1.3, "logit_bias": {5: 2.0}, "forbidden_ids": (1, 2)},
        {"temperature": 0.0},
    ]
    sample(sampling=SPEAKING, config=config)
    for changes in wishes:
        with counted_compiles() as compiles:
            got = sample(sampling=dataclasses.replace(SPEAKING, **changes), config=config)
        assert compiles.count == 0
        assert_log_probs_are_of(got, teacher_forced_logits(got), "logp_plain")
        assert np.abs(got.logp_plain - got.logp).max() > 0.01 or not changes["temperature"]
        wanted = sample(sampling=dataclasses.replace(SAMPLING, **changes))
        assert wanted.logp_plain is None
        np.testing.assert_array_equal(got.tokens, wanted.tokens)
        np.testing.assert_allclose(got.logp, wanted.logp, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(DEFAULTS, id="plain"),
        pytest.param(RolloutConfig(speculate="ngram", ngram=1, chunk=2, slots=5), id="drafts"),
    ],
)
def test_kept_are_the_tokens_that_could_have_been_drawn(config):
    """By sorting the training path's logits; writing them down changes no token."""
    sampling = dataclasses.replace(SAMPLING, top_k=5, top_p=0.8, record_kept=True)
    got = sample(sampling=sampling, config=config)
    wanted = sample(sampling=dataclasses.replace(sampling, record_kept=False))
    assert wanted.kept is None
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    sizes = set()
    for row, logits in enumerate(teacher_forced_logits(got)):
        assert (got.kept[row, got.lengths[row] :] == -1).all()
        for place, token in enumerate(got.response(row)):
            order = np.argsort(-logits[place])[:5]
            probs = np.exp(logits[place, order] - logits[place, order].max())
            probs /= probs.sum()
            nucleus = order[: np.argmax(np.cumsum(probs) >= 0.8) + 1]
            kept = got.kept[row, place]
            assert token in kept
            assert sorted(kept[kept >= 0]) == sorted(nucleus)
            sizes.add(len(nucleus))
    assert len(sizes) > 1


def test_greedy_leaves_nothing_out():
    greedy = dataclasses.replace(SAMPLING, top_k=3, record_kept=True, temperature=0.0)
    assert (sample(sampling=greedy).kept == -1).all()


def test_greedy_takes_the_training_paths_best_tokens():
    rollouts = sample(sampling=dataclasses.replace(SAMPLING, temperature=0.0))
    for row, logits in enumerate(teacher_forced_logits(rollouts)):
        np.testing.assert_array_equal(rollouts.response(row), logits.argmax(axis=-1))


def test_responses_end_with_their_first_stop_token_or_at_the_limit():
    """The stop token is part of the response; everything after it is zero."""
    sampling = dataclasses.replace(SAMPLING, stop_ids=(3, 7))
    rollouts = sample(sampling=sampling)
    assert 0 < rollouts.finished.sum() < len(rollouts.finished)
    for row, length in enumerate(rollouts.lengths):
        stops = np.isin(rollouts.tokens[row], sampling.stop_ids)
        assert rollouts.finished[row] == stops.any()
        assert length == (stops.argmax() + 1 if stops.any() else sampling.max_tokens)
        assert not rollouts.tokens[row, length:].any()
        assert not rollouts.logp[row, length:].any()
        assert (rollouts.logp[row, :length] < 0).all()


def test_one_token_is_a_whole_response():
    rollouts = sample(sampling=SamplingParams(max_tokens=1, stop_ids=(3, 19)))
    assert (rollouts.lengths == 1).all()
    np.testing.assert_array_equal(rollouts.finished, np.isin(rollouts.tokens[:, 0], (3, 19)))
    assert 0 < rollouts.finished.sum() < len(rollouts.finished)


def test_without_stop_tokens_every_response_is_cut():
    rollouts = sample(sampling=SamplingParams(max_tokens=3))
    assert (rollouts.lengths == 3).all()
    assert not rollouts.finished.any()


@pytest.mark.parametrize("stop_ids", [(3, 7), tuple(range(1, 24, 3)), tuple(range(2, 24, 3))])
def test_decoding_ends_with_the_last_response(stop_ids):
    """The first token comes from the prompt: n tokens take n - 1 steps."""
    sampling = SamplingParams(max_tokens=12, stop_ids=stop_ids)
    rollout = start(sampling=sampling, config=copied(slots=12, lanes=1))
    lengths = rollout.collect().lengths
    assert rollout.steps == lengths.max() - 1
    assert rollout.busy_share == (lengths - 1).sum() / (rollout.steps * 12)
    assert rollout.busy_steps == (lengths - 1).sum()


def test_slots_that_a_tail_gives_up_are_not_idle(monkeypatch):
    """`busy_share` is of the rows that programs decoded."""
    decoded = [(0, 0)]  # (steps, rows summed over them) after every chunk
    run = Programs.run

    def counted(self, loop, *rest, **options):
        rows = len(loop.slots.rows)
        loop, report = run(self, loop, *rest, **options)
        steps = int(report.steps)
        decoded.append((steps, decoded[-1][1] + (steps - decoded[-1][0]) * rows))
        return loop, report

    sampling = SamplingParams(max_tokens=32, stop_ids=(3, 7, 9))
    config = copied(slots=100, lanes=1, chunk=1, room=2, tail_from=100)
    whole = start(MANY_PROMPTS, sampling=sampling, config=config)
    whole.collect()
    monkeypatch.setattr(Programs, "run", counted)
    config = dataclasses.replace(config, tail_from=1)
    rollout = start(MANY_PROMPTS, sampling=sampling, config=config)
    lengths = rollout.collect().lengths
    assert rollout.busy_steps == whole.busy_steps == (lengths - 1).sum()
    assert rollout.busy_share == rollout.busy_steps / decoded[-1][1]
    assert whole.busy_share < rollout.busy_share <= 1


def test_no_lane_waits_for_one_whose_steps_are_longer():
    """One comes to its tail before the other: they go on by work, not in turn."""
    sampling = SamplingParams(max_tokens=64, stop_ids=(3,))
    config = copied(slots=22, lanes=2, chunk=2, room=16, tail_from=1)
    for seed in (3, 4, 5, 6):
        rollout = start(MANY_PROMPTS, sampling=sampling, config=config, seed=seed)
        for _ in rollout.finished():
            one, other = rollout._lanes
            if not one.is_over() and not other.is_over():
                assert abs(one.work - other.work) <= 2 * (11 + 8)  # a chunk of all slots


PLAIN = RolloutConfig(share_prompts="never", slots=100, chunk=100, lanes=1)
copied = functools.partial(RolloutConfig, share_prompts="never")
WAYS = {
    "all defaults": RolloutConfig(),
    "all at once": copied(slots=100),
    "one slot": copied(slots=1),
    "few slots": copied(slots=5, chunk=3),
    "fewer slots for the tail": copied(slots=100, chunk=2, tail_from=1),
    "a shared prompt, and a tail": RolloutConfig(share_prompts="always", chunk=2, tail_from=1),
    "a step at a time": copied(chunk=1, room=2),
    "rooms that grow": copied(slots=7, chunk=2, room=3),
    "a shared prompt": RolloutConfig(share_prompts="always", chunk=4),
    "a shared prompt, few slots": RolloutConfig(slots=3, share_prompts="always", room=4, chunk=2),
    "prompts in waves": copied(bank_tokens=32, slots=4, chunk=3),
    "one prompt at a time": copied(bank_tokens=1, prefill_tokens=1, slots=6, chunk=5),
    "prompts in parts": copied(prefill_chunk=5, slots=12),
    "one loop": copied(slots=6, chunk=3, lanes=1),
    "three loops": copied(slots=7, chunk=2, lanes=3, tail_from=1),
    "more loops than prompts": RolloutConfig(lanes=50, share_prompts="always"),
    "loops that share waves": copied(bank_tokens=32, slots=9, lanes=4, chunk=1),
}
# Each of the slow ones does what two of the others do together.
SLOW_WAYS = {"few slots", "fewer slots for the tail", "a shared prompt", "more loops than prompts"}
every_way = pytest.mark.parametrize(
    "way", [pytest.param(w, marks=pytest.mark.slow if w in SLOW_WAYS else []) for w in WAYS]
)
MANY_PROMPTS = [*PROMPTS, [7] * 20, list(range(1, 24)), [3, 1, 2]]


@functools.cache
def plain_rollout():
    return sample(MANY_PROMPTS, config=PLAIN)


@every_way
def test_a_response_is_the_same_however_it_is_decoded(way):
    """Slots, chunks, rooms, waves and sharing change when a token is computed, never which."""
    wanted, got = plain_rollout(), sample(MANY_PROMPTS, config=WAYS[way])
    assert len(set(wanted.lengths.tolist())) > 4
    for name in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    np.testing.assert_allclose(got.logp, wanted.logp, atol=1e-5)


def test_large_matrices_are_multiplied_in_other_ways_for_other_slots_and_give_the_same():
    """On a CPU: `linear.multiply`. 84 rows at once are multiplied as they lie."""
    module = models.Transformer(dataclasses.replace(TINY, width=256, ffn=520))
    decode_params = prepare_params(module.config, models.init_params(module, 0))

    def sample_with(config):
        prompts = as_prompt_batch(MANY_PROMPTS)
        options = {"sampling": SAMPLING, "samples_per_prompt": 12, "config": config}
        return dispatch(module, decode_params, prompts, seed=0, step=0, **options).collect()

    wanted = sample_with(PLAIN)
    assert len(wanted.lengths) == 84 > TURNED_ROWS
    ways = [copied(slots=20, lanes=1), copied(slots=6, chunk=3), copied(slots=9, lanes=1, chunk=2)]
    for config in (*ways, copied(slots=20, lanes=1, chunk=1, room=2, tail_from=1)):
        got = sample_with(config)
        np.testing.assert_array_equal(got.tokens, wanted.tokens)
        np.testing.assert_allclose(got.logp, wanted.logp, rtol=0, atol=1e-5)
    assert abs(got.logp - wanted.logp).max() > 0  # they were


@every_way
def test_finished_yields_every_complete_response_once(way):
    rollout = start(MANY_PROMPTS, config=WAYS[way])
    seen = []
    for rows in rollout.finished():
        assert (rollout.rollouts.lengths[rows] > 0).all()
        seen += rows.tolist()
    assert sorted(seen) == list(range(3 * len(MANY_PROMPTS)))


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_device_goes_on_while_finished_responses_are_read(monkeypatch, lanes):
    """Whenever some are handed on and others not done, steps are under way that nobody waits for:
    they come to an end while the host does nothing but look at what it was given."""
    reports = {}
    run = Programs.run

    def told(programs, loop, *rest, **options):
        loop, report = run(programs, loop, *rest, **options)
        reports[threading.get_ident()] = report
        return loop, report

    monkeypatch.setattr(Programs, "run", told)
    rollout = start(MANY_PROMPTS, config=copied(slots=4, chunk=2, lanes=lanes), samples=8)
    total, seen, ahead = 8 * len(MANY_PROMPTS), 0, []
    for rows in rollout.finished():
        seen += len(rows)
        if len(rows) and seen < total:
            behind_those_under_way = sum(int(report.steps) for report in reports.values())
            ahead.append(behind_those_under_way - rollout.steps)
    assert len(ahead) > 5
    # Not the last ones: all have ended, and only their tokens are still to be read.
    assert min(ahead[: -2 * lanes]) > 0


def test_few_slots_are_kept_busy():
    """With slots refilled inside the loop, steps are near the tokens there are per slot."""
    rollout = start(MANY_PROMPTS, config=copied(slots=4), samples=8)
    steps_needed = (rollout.collect().lengths - 1).sum()
    assert rollout.busy_steps == steps_needed
    assert rollout.steps <= steps_needed / 4 + SAMPLING.max_tokens


def test_loops_side_by_side_are_dispatched_from_threads_of_their_own(monkeypatch):
    """On one thread they would wait for each other. They see the caller's mesh and device, so
    that nothing is compiled for them that was not before."""
    seen = []

    def run(programs, *arguments, **options):
        mesh, device = jax.sharding.get_mesh(), jax.config.jax_default_device
        seen.append((threading.get_ident(), (mesh, device)))
        return actual(programs, *arguments, **options)

    actual = Programs.run
    module, params = tiny()
    other = jax.devices()[1]
    mesh = jax.sharding.Mesh(np.array([[[[other]]]]), ("data", "fsdp", "expert", "tensor"))
    options = {"sampling": SAMPLING, "samples_per_prompt": 3, "seed": 0}
    for setting, value in ((jax.default_device, other), (jax.set_mesh, mesh)):
        with setting(value):
            there = (jax.sharding.get_mesh(), jax.config.jax_default_device)
            params = jax.device_put(params, other)
            rollouts = generate(module, params, PROMPTS, config=copied(lanes=3), **options)
            monkeypatch.setattr(Programs, "run", run)
            with counted_compiles() as compiles:
                generate(module, params, PROMPTS, config=copied(lanes=3), **options)
            monkeypatch.undo()
        assert compiles.count == 0
        np.testing.assert_array_equal(rollouts.tokens, sample(config=PLAIN).tokens)
        threads, settings = zip(*seen, strict=True)
        assert set(settings) == {there}
        assert len(set(threads)) == 3
        assert threading.get_ident() not in threads
        seen.clear()


def test_what_there_is_so_far_is_of_all_loops():
    """As far as a response has come, it is what it will be; in the end it is all there."""
    rollout = start(MANY_PROMPTS, config=copied(slots=9, chunk=2, lanes=3))
    wanted, looks, seen = plain_rollout(), rollout.finished(), []
    for _ in range(3):
        next(looks)
        found = rollout.so_far()
        seen.append(int(found.lengths.sum()))
        for row, length in enumerate(found.lengths):
            assert found.tokens[row, :length].tolist() == wanted.tokens[row, :length].tolist()
    assert 0 < seen[0] < seen[2] < wanted.lengths.sum()
    rollout.collect()
    np.testing.assert_array_equal(rollout.so_far().lengths, wanted.lengths)


def test_what_one_loop_raises_ends_the_rollout():
    """Here the second loop's wave, which is asked for in its thread."""

    def prompts():
        yield PromptBatch(np.arange(2), (np.array([1]), np.array([2])), ({}, {}))
        raise RuntimeError("no more")

    module, params = tiny()
    decode_params = prepare_params(module.config, params)
    with pytest.raises(RuntimeError, match="no more"):
        generate_groups(
            module,
            decode_params,
            prompts(),
            lambda _: False,
            want=1,
            budget=4,
            longest_prompt=3,
            sampling=SAMPLING,
            samples_per_prompt=2,
            seed=0,
            config=copied(lanes=2),
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"windows": (4, 0)}, marks=pytest.mark.slow),
        pytest.param({"heads": 8, "kv_heads": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_sharing_is_exact_for_every_attention(changes):
    config = RolloutConfig(share_prompts="always", chunk=3, room=4)
    shared, copied = (sample(MANY_PROMPTS, config=c, **changes) for c in (config, PLAIN))
    np.testing.assert_array_equal(shared.tokens, copied.tokens)
    np.testing.assert_allclose(shared.logp, copied.logp, atol=1e-5)


def letters(tokens):
    """Token 0 is silent, the others are letters."""
    return "".join(chr(96 + token) for token in tokens if token)


def cut_by_hand(rollouts, strings):
    """Each response up to the token that completes a stop string."""
    for row in range(len(rollouts.lengths)):
        response = rollouts.response(row).tolist()
        for length in range(1, len(response) + 1):
            if any(string in letters(response[:length]) for string in strings):
                yield response[:length], True
                break
        else:
            yield response, bool(rollouts.finished[row])


@pytest.mark.parametrize("way", ["all defaults", "few slots", "a shared prompt, few slots"])
def test_stop_strings_end_a_response_with_the_token_that_completes_them(way):
    """No token is lost or added, wherever chunks end; strings may span tokens."""
    strings = ("b", "ef", "rs", "wxyz")
    sampling = dataclasses.replace(SAMPLING, stop_strings=strings)
    got = sample(MANY_PROMPTS, sampling=sampling, config=WAYS[way], decode_text=letters)
    wanted = list(cut_by_hand(plain_rollout(), strings))
    assert sum(len(w) < n for (w, _), n in zip(wanted, plain_rollout().lengths, strict=True)) > 0
    for row, (response, finished) in enumerate(wanted):
        assert got.response(row).tolist() == response
        assert got.finished[row] == finished
        assert not got.tokens[row, len(response) :].any()
        assert not got.logp[row, len(response) :].any()


def test_a_stop_string_that_never_comes_changes_nothing():
    sampling = dataclasses.replace(SAMPLING, stop_strings=("\N{REPLACEMENT CHARACTER}",))
    got = sample(MANY_PROMPTS, sampling=sampling, decode_text=letters)
    np.testing.assert_array_equal(got.tokens, plain_rollout().tokens)


def test_stop_strings_need_a_way_to_read_tokens():
    with pytest.raises(ValueError, match="stop_strings: need decode_text"):
        sample(sampling=dataclasses.replace(SAMPLING, stop_strings=("a",)))


def rows_of(rollouts, prompt, count=3):
    """(tokens, log-probs) of the first samples of one prompt."""
    start = prompt * rollouts.samples_per_prompt
    return rollouts.tokens[start : start + count], rollouts.logp[start : start + count]


COMPANY = {
    "alone": ([2], 3),
    "in another order": ([3, 2, 0, 1], 3),
    "with more samples": ([0, 1, 2, 3], 5),
}


@pytest.mark.parametrize("company", COMPANY)
def test_a_response_is_the_same_in_any_company(company):
    """It depends on the seed, the step, the prompt's id and the sample's number only."""
    order, samples = COMPANY[company]
    ids = np.array([10, 2**40 + 5, 12, 13])
    tokens = [np.array(p, np.int32) for p in PROMPTS]
    wanted = sample(PromptBatch(ids, tuple(tokens), ({},) * 4))
    some = PromptBatch(ids[order], tuple(tokens[i] for i in order), ({},) * len(order))
    got = sample(some, samples=samples)
    for place, prompt in enumerate(order):
        for one, other in zip(rows_of(got, place), rows_of(wanted, prompt), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_padding_of_prompts_does_not_change_responses():
    """A long neighbour puts all prompts into a wider bucket, and the cache with them."""
    long = list(range(1, 20)) * 2
    narrow, wide = sample(PROMPTS), sample([*PROMPTS, long])
    assert prompt_bucket(len(long)) > prompt_bucket(max(map(len, PROMPTS)))
    np.testing.assert_array_equal(wide.tokens[:12], narrow.tokens)
    np.testing.assert_allclose(wide.logp[:12], narrow.logp, atol=1e-5)


def test_room_for_more_tokens_does_not_change_the_first_ones():
    short, long = (sample(sampling=SamplingParams(max_tokens=n)).tokens for n in (5, 12))
    np.testing.assert_array_equal(long[:, :5], short)


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}, {"seed": -1}, {"seed": 2**31 - 1}])
def test_seed_and_step_make_other_responses(other):
    assert not np.array_equal(sample(**other).tokens, sample().tokens)


def test_samples_of_a_prompt_differ():
    assert len({tuple(tokens) for tokens in sample([[1, 2]] * 4).tokens}) > 9


def test_a_second_rollout_compiles_nothing():
    """Other prompts of the same bucket, parameters, sampling values, seed and step."""
    sample()
    others = dataclasses.replace(
        SAMPLING, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, min_tokens=2, stop_ids=(5, 6)
    )
    module, params = tiny()
    tiny_again = jax.tree.map(lambda leaf: leaf + 0.01, params)
    with counted_compiles() as compiles:
        sample([[9], [8, 8], [7], [1] * 16], sampling=others, seed=5, step=17)
        generate(
            module, tiny_again, PROMPTS, sampling=SAMPLING, samples_per_prompt=3, seed=0, step=1
        )
    assert compiles.count == 0


def test_nor_does_one_of_longer_responses_than_the_first():
    """Rooms, sizes of a tail, stop strings: what the first did not come to is compiled all the
    same."""
    config = copied(slots=24, lanes=2, chunk=2, room=4, tail_from=1)
    sampling = dataclasses.replace(
        SAMPLING, max_tokens=30, stop_ids=(1,), stop_strings=("2 3",), logit_bias={1: 50.0}
    )
    options = {"config": config, "samples": 8, "decode_text": lambda ids: " ".join(map(str, ids))}
    short = sample(sampling=sampling, **options)
    assert short.lengths.max() == 1
    with counted_compiles() as compiles:
        for bias in (3.0, 0.0, -50.0):
            biased = dataclasses.replace(sampling, logit_bias={1: bias})
            longer = sample(sampling=biased, seed=1, **options)
    assert longer.lengths.max() == 30 > longer.lengths.min()
    assert compiles.count == 0


def test_generate_takes_bare_prompts():
    got = generate(*tiny(), PROMPTS, sampling=SAMPLING, samples_per_prompt=3, seed=0)
    np.testing.assert_array_equal(got.tokens, sample().tokens)


def test_rollouts_say_what_they_are():
    rollouts = sample()
    assert rollouts.samples_per_prompt == 3
    assert rollouts.tokens.dtype == rollouts.lengths.dtype == np.int32
    assert rollouts.logp.dtype == np.float32
    assert rollouts.prompts.ids.tolist() == [0, 1, 2, 3]
    assert rollouts.tokens.max() < TINY.vocab_size


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        ([[1], []], "prompt 1 is empty"),
        ([[1], [1.5]], "prompt 1: float64"),
        ([[[1]]], "give a list of token ids"),
        (["text"], "give a list of token ids"),
        ([[1, TINY.vocab_size]], f"has token {TINY.vocab_size}, the model's vocabulary"),
        ([[1], [-1]], "prompt 1 has token -1"),
    ],
)
def test_prompts_that_are_none_are_refused(prompts, message):
    with as_users_call(), pytest.raises((ValueError, UserError), match=message):
        sample(prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples_per_prompt=0: must be 1 or more"),
        ({"seed": 2**31}, "seed=2147483648: must lie between"),
        ({"step": -(2**31) - 1}, "step=-2147483649"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample([[1]], **options)
