"""The critic against float64: values, GAE of packed rows with the KL in rewards, its updates."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import make_tiny, random_sequences

from r1jax.config import CriticConfig, from_config_dict
from r1jax.errors import UserError
from r1jax.models import heads
from r1jax.ops import packing
from r1jax.training import critic, step
from r1jax.types import PackedBatch

LONGEST, ROW_LENGTH, ROWS, PER_MICRO = 8, 16, 8, 2
KL_COEF, CLIP = 0.3, 0.05


@functools.cache
def tiny():
    return heads.attach(*make_tiny(layers=1), seed=3)


def halves(sequence):
    """(prompt, response)"""
    return np.split(sequence.tokens, [len(sequence.tokens) - len(sequence.advantages)])


def make_batch(*, share_prompts=False) -> tuple[PackedBatch, int]:
    """Random responses in micro-batches; `advantages` has each response's outcome."""
    rng = np.random.default_rng(0)
    sequences = random_sequences(rng, 11, longest=LONGEST)
    if share_prompts:  # the second of each pair answers the first one's prompt
        for at in range(1, len(sequences), 2):
            tokens = np.concatenate([halves(sequences[at - 1])[0], halves(sequences[at])[1]])
            sequences[at] = dataclasses.replace(sequences[at], tokens=tokens)
    batch = packing.pack(sequences, row_length=ROW_LENGTH, rows=ROWS, share_prompts=share_prompts)
    noise = rng.normal(0, 0.3, batch.mask.shape).astype(np.float32)
    batch = dataclasses.replace(batch, logp_ref=batch.logp_behavior + noise)
    return packing.split_micro(batch, PER_MICRO)


def appraise(batch, used, **options):
    module, params = tiny()
    config = dataclasses.replace(CriticConfig(), **options)
    values = jax.jit(functools.partial(critic.predict, module))(params, batch, 0, used)
    program = jax.jit(functools.partial(critic.appraise, config, KL_COEF))
    return jax.device_get(program(batch, values))


def hidden_of(batch, used):
    """What the head reads at each prediction's place, [M, B, T, D]."""
    module, params = tiny()
    read = jax.jit(functools.partial(module.apply, method="hidden"))
    found = np.zeros((*batch.mask.shape, module.config.width))
    for index in range(used):
        micro = jax.tree.map(operator.itemgetter(index), batch)
        inputs = (micro.tokens, micro.positions, micro.segment_ids, micro.prefix_ids)
        hidden = np.asarray(read({"params": params}, *inputs))
        found[index] = np.take_along_axis(hidden, batch.sources[index][..., None], axis=1)
    return found


def responses_of(batch):
    """Where the counted tokens of each response are."""
    rows = batch.mask.reshape(-1, batch.mask.shape[-1])
    ids = batch.sequence_ids.reshape(rows.shape)
    for row in range(len(rows)):
        for sequence in range(1, ids[row].max(initial=0) + 1):
            places = np.flatnonzero((ids[row] == sequence) & rows[row])
            if len(places):
                yield row, places


def gae_by_hand(rewards, values, gamma, lam):
    advantages, following, value = np.zeros(len(rewards)), 0.0, 0.0
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * value - values[t] + gamma * lam * following
        advantages[t], value = following, values[t]
    return advantages


@pytest.mark.parametrize(
    ("share_prompts", "options"),
    [
        pytest.param(False, {"gamma": 0.9, "lam": 0.8, "return_lam": 0.95}, id="two lambdas"),
        pytest.param(True, {"length_alpha": 0.4}, id="lambda by length, prompts shared"),
    ],
)
def test_values_advantages_and_returns_are_those_of_each_response(options, share_prompts):
    batch, used = make_batch(share_prompts=share_prompts)
    assert used > 1
    assert not share_prompts or (batch.sources != np.arange(ROW_LENGTH)).any()
    found = appraise(batch, used, **options)
    score = np.float64(tiny()[1][heads.SCORE])
    values = np.where(batch.mask, hidden_of(batch, used) @ score, 0)
    np.testing.assert_allclose(found.values, values, atol=2e-6)
    flat = [np.float64(each).reshape(-1, ROW_LENGTH) for each in (*found, batch.advantages)]
    values, advantages, returns, outcome = flat
    log_ratio = np.float64(batch.logp_behavior - batch.logp_ref).reshape(values.shape)
    wanted = [np.zeros(values.shape), np.zeros(values.shape)]
    for row, places in responses_of(batch):
        rewards = -KL_COEF * log_ratio[row, places]
        rewards[-1] += outcome[row, places[-1]]
        gamma, lam = options.get("gamma", 1.0), options.get("lam", 1.0)
        if "length_alpha" in options:
            lam = max(0.0, 1 - 1 / (options["length_alpha"] * len(places)))
        given = (rewards, values[row, places], gamma)
        wanted[0][row, places] = gae_by_hand(*given, lam)
        returns_lam = options.get("return_lam", 1.0)
        wanted[1][row, places] = gae_by_hand(*given, returns_lam) + values[row, places]
    np.testing.assert_allclose(advantages, wanted[0], atol=2e-6)
    np.testing.assert_allclose(returns, wanted[1], atol=2e-6)


def test_advantages_are_whitened_over_all_minibatches_of_a_step():
    rng = np.random.default_rng(1)
    arrays = rng.normal(3, 2, (2, 3, 1, 2, 8)).astype(np.float32)
    masks = np.less(rng.random((2, 1, 2, 8)), 0.7)
    found = [critic.Appraisal(*each) for each in arrays]
    settled, stats = jax.jit(functools.partial(critic.settle, whiten=True))(found, list(masks))
    values, advantages, returns = (arrays[:, i][masks].astype(np.float64) for i in range(3))
    wanted = (advantages - advantages.mean()) / advantages.std(ddof=1)
    whitened = np.stack([each.advantages for each in settled])
    np.testing.assert_allclose(whitened[masks], wanted, atol=1e-5)
    explained = 1 - (returns - values).var() / returns.var()
    numbers = {"mean": values.mean(), "returns": returns.mean(), "explained_variance": explained}
    for name, number in numbers.items():
        np.testing.assert_allclose(stats[f"value/{name}"], number, rtol=1e-5)
    plain, _ = jax.jit(functools.partial(critic.settle, whiten=False))(found, list(masks))
    np.testing.assert_array_equal(plain[1].advantages, arrays[1, 1])


@functools.cache
def make_update(clip):
    """With gradient descent at rate 1: parameters move by minus the gradient."""
    loss, optimizer = critic.make_value_loss(tiny()[0], clip), optax.sgd(1.0)
    return optimizer, step.make_update(loss, step.supervised_weights, optimizer)


def move_of(batch, used, clip):
    optimizer, update = make_update(clip)
    params = tiny()[1]
    state = step.init_state(jax.tree.map(jnp.copy, params), optimizer)
    state, stats = update(state, batch, np.int32(used))
    return jax.tree.map(jnp.subtract, params, state.params), jax.device_get(stats)


@pytest.mark.parametrize("clip", [CLIP, pytest.param(None, marks=pytest.mark.slow)])
def test_a_critics_update_is_the_gradient_of_half_the_clipped_squared_error(clip):
    """At the head, whose gradient is the hidden states', in float64; however the batch is cut."""
    batch, used = make_batch()
    rng = np.random.default_rng(2)
    hidden = hidden_of(batch, used)
    values = hidden @ np.float64(tiny()[1][heads.SCORE])
    old, returns = values + rng.normal(0, 0.1, values.shape), rng.normal(0, 0.2, values.shape)
    batch = dataclasses.replace(
        batch, values=old.astype(np.float32), returns=returns.astype(np.float32)
    )
    grads, stats = move_of(batch, used, clip)
    bounded = values if clip is None else np.clip(values, old - clip, old + clip)
    is_clipped = (bounded - returns) ** 2 > (values - returns) ** 2
    assert clip is None or 0.1 < is_clipped[batch.mask].mean() < 0.9
    losses = np.maximum((bounded - returns) ** 2, (values - returns) ** 2)
    weight = batch.mask / batch.mask.sum()
    np.testing.assert_allclose(stats["loss"], 0.5 * np.sum(weight * losses), rtol=1e-5)
    np.testing.assert_allclose(stats["vf_clipfrac"], is_clipped[batch.mask].mean(), rtol=1e-6)
    by_value = weight * np.where(is_clipped, 0, values - returns)
    wanted = np.einsum("mbt,mbtd->d", by_value, hidden)
    np.testing.assert_allclose(grads[heads.SCORE], wanted, atol=1e-6)
    whole = jax.tree.map(lambda leaf: leaf.reshape(1, -1, *leaf.shape[2:]), batch)
    again, _ = move_of(whole, 1, clip)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), again, grads)


def test_a_critic_starts_as_the_base_and_predicts_nothing():
    module, base = make_tiny(tied_head=False)
    optimizer = optax.adam(1e-3)
    state = jax.jit(functools.partial(critic.init_scored, module, optimizer))(base)
    assert set(state.params) == set(base) - {"head"} | {heads.SCORE}
    assert not state.params[heads.SCORE].any()
    jax.tree.map(
        np.testing.assert_array_equal,
        {name: leaf for name, leaf in state.params.items() if name in base},
        {name: leaf for name, leaf in base.items() if name != "head"},
    )
    # Memory of its own: the policy's updates write over the base.
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(base)}
    assert not pointers & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)}


GAE = {"rl.advantage": "gae"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic.lam": 0.95}, "critic.lam: advantages of groups have no critic; set rl.advantage"),
        ({"rl.samples_per_prompt": 1}, "rl.samples_per_prompt=1: must be 2 or more"),
        ({"objective.kl_in_reward": True, "objective.kl": "k1"}, "objective.kl_in_reward: a group"),
        ({**GAE, "objective.kl_in_reward": True, "objective.kl": "k3"}, "needs kl='k1'"),
        ({**GAE, "rl.samples_per_prompt": 0}, "rl.samples_per_prompt=0: must be 1 or more"),
        ({**GAE, "rl.advantage_scale": "none"}, "rl.advantage_scale: of advantages within groups"),
        (
            {**GAE, "rl.samples_per_prompt": 1, "rl.dynamic.mode": "refill"},
            "rl.dynamic.mode='refill': goes by the share of right answers of a group",
        ),
        ({**GAE, "rl.dynamic.mode": "zvp"}, "rl.dynamic.mode='zvp': gives advantages to groups"),
        ({**GAE, "grading.steps": "a.b"}, "rl.advantage='gae' has no use for rewards of steps"),
        ({**GAE, "lora.rank": 4}, "lora.rank=4: a critic is trained whole"),
        ({**GAE, "critic.gamma": 1.5}, "critic.gamma=1.5: must lie between 0 and 1"),
        ({**GAE, "critic.clip": 0.0}, "critic.clip=0.0: must be above 0, or None"),
        ({**GAE, "critic.pretrain_steps": -1}, "critic.pretrain_steps=-1: must be 0 or more"),
        ({**GAE, "critic.length_alpha": 0.05, "critic.lam": 0.9}, "leave one out"),
        ({**GAE, "critic.optim": {"lr": 0.0}}, "critic.optim.lr=0.0: must be above 0"),
        ({"rl.advantage": "critic"}, "rl.advantage='critic': must be one of group, process, gae"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, message):
    tree: dict = {}
    for key, value in settings.items():
        section, name = key.split(".", 1)
        place = tree.setdefault(section, {})
        if "." in name:
            inner, name = name.split(".")
            place = place.setdefault(inner, {})
        place[name] = value
    with pytest.raises(UserError, match=message) as caught:
        from_config_dict(tree)
    assert "\n" not in str(caught.value)
