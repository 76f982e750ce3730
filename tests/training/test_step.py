"""The update against a dense float64 loss; how a batch is cut up changes nothing."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import counted_compiles, log_softmax, make_tiny, random_batch, random_sequences

from r1jax.objectives.policy import PolicyObjective, policy_loss
from r1jax.ops import attention, packing
from r1jax.training import step

LONGEST, ROW_LENGTH, ROWS = 8, 16, 8
TEMPERATURE = 0.8
OBJECTIVE = PolicyObjective(clip_high=0.28, kl="k3", kl_coef=0.1, entropy_coef=0.01)


def make_batch(seed=0, count=11, rows=ROWS):
    rng = np.random.default_rng(seed)
    batch = random_batch(rng, count, longest=LONGEST, row_length=ROW_LENGTH, rows=rows)
    noise = rng.normal(0, 0.3, batch.mask.shape).astype(np.float32)
    return dataclasses.replace(batch, logp_ref=batch.logp_behavior + noise)


@functools.cache
def tiny():
    return make_tiny()


@functools.cache
def make_policy_update(*, on_policy=False):
    """The update with plain gradient descent at rate 1: parameters move by minus the gradient."""
    loss = step.make_policy_loss(tiny()[0], OBJECTIVE, temperature=TEMPERATURE, on_policy=on_policy)
    optimizer = optax.sgd(1.0)
    return optimizer, step.make_update(loss, step.make_policy_weights(OBJECTIVE), optimizer)


@functools.cache
def make_supervised_update():
    module, _ = tiny()
    optimizer = optax.sgd(1.0)
    loss = step.make_supervised_loss(module)
    return optimizer, step.make_update(loss, step.supervised_weights, optimizer)


def run(update, batch, rows_per_micro=4, used=None):
    """(gradient, statistics) of one update."""
    optimizer, step_fn = update
    params = tiny()[1]
    state = step.init_state(jax.tree.map(jnp.copy, params), optimizer)
    split, filled = packing.split_micro(batch, rows_per_micro)
    state, stats = step_fn(state, split, np.int32(filled if used is None else used))
    assert state.step == 1
    return jax.tree.map(jnp.subtract, params, state.params), jax.device_get(stats)


def assert_close(left, right, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-5), left, right)


@jax.jit
def dense_logits(params, batch):
    module, _ = tiny()
    return module.apply({"params": params}, batch.tokens, batch.positions, batch.segment_ids)


@jax.jit
def pull_back(batch, by_logits):
    """The parameters' gradient from a gradient by the logits."""
    _, vjp = jax.vjp(lambda params: dense_logits(params, batch), tiny()[1])
    return vjp(by_logits.astype(jnp.float32))[0]


def sequences_of(batch):
    """(row, counted places) of each packed sequence that has any."""
    for row, ids in enumerate(batch.segment_ids):
        for segment in range(1, ids.max(initial=0) + 1):
            places = np.flatnonzero((ids == segment) & batch.mask[row])
            if len(places):
                yield row, places


def weights_by_hand(aggregation, batch):
    weights = np.zeros(batch.mask.shape)
    sequences = list(sequences_of(batch))
    prompts = [batch.prompt_ids[row, places[0]] for row, places in sequences]
    tokens_of_prompt = collections.Counter()
    for prompt, (_, places) in zip(prompts, sequences, strict=True):
        tokens_of_prompt[prompt] += len(places)
    for prompt, (row, places) in zip(prompts, sequences, strict=True):
        weights[row, places] = {
            "token_mean": 1 / batch.mask.sum(),
            "sequence_mean": 1 / len(places) / len(sequences),
            "prompt_mean": 1 / tokens_of_prompt[prompt] / len(tokens_of_prompt),
            "constant": 1 / LONGEST / batch.segment_ids.max(axis=1).sum(),
        }[aggregation]
    return weights


def policy_loss_by_hand(batch, logits, *, on_policy, allowed=True):
    """(loss, its gradient by the logits) with every token's terms written out, in float64."""
    logs = log_softmax(logits / TEMPERATURE)
    probs = np.exp(logs)
    entropy = -np.sum(probs * logs, axis=-1)
    by_entropy = -probs * (logs + entropy[..., None])
    logs = log_softmax(np.where(allowed, logits / TEMPERATURE, -np.inf))
    probs = np.exp(logs)
    one_hot = np.eye(logits.shape[-1])[batch.targets]
    logp = np.sum(np.where(one_hot, logs, 0), axis=-1)
    adv, ref = np.float64(batch.advantages), np.float64(batch.logp_ref)
    ratio = np.exp(logp - (logp if on_policy else batch.logp_behavior))
    low, high = 1 - OBJECTIVE.clip_low, 1 + OBJECTIVE.clip_high
    kl = np.exp(ref - logp) - (ref - logp) - 1
    loss = -np.minimum(ratio * adv, np.clip(ratio, low, high) * adv)
    loss += OBJECTIVE.kl_coef * kl - OBJECTIVE.entropy_coef * entropy
    moves = np.where(adv > 0, ratio <= high, ratio >= low)
    by_logp = -np.where(moves, ratio * adv, 0) + OBJECTIVE.kl_coef * (1 - np.exp(ref - logp))
    by_logits = by_logp[..., None] * (one_hot - probs)
    by_logits -= OBJECTIVE.entropy_coef * by_entropy
    weights = weights_by_hand("token_mean", batch)
    return np.sum(weights * loss), weights[..., None] * by_logits / TEMPERATURE


@pytest.mark.parametrize("on_policy", [False, True])
def test_policy_gradient_equals_dense_float64(on_policy):
    batch = make_batch()
    grads, stats = run(make_policy_update(on_policy=on_policy), batch)
    logits = np.float64(dense_logits(tiny()[1], batch))
    loss, by_logits = policy_loss_by_hand(batch, logits, on_policy=on_policy)
    wanted = pull_back(batch, by_logits)
    np.testing.assert_allclose(stats["loss"], loss, rtol=1e-6)
    assert_close(grads, wanted, atol=2e-6)
    np.testing.assert_allclose(stats["grad_norm"], optax.tree.norm(wanted), rtol=1e-5)


def test_what_a_truncated_sampler_could_not_draw_has_no_probability():
    """Keep Sampling Mask: the whole update with the log-probs renormalised over the kept tokens."""
    batch = make_batch()
    rng = np.random.default_rng(5)
    others = rng.integers(-1, 24, (*batch.targets.shape, 5), np.int32)
    kept = np.concatenate([others, batch.targets[..., None]], axis=-1)
    kept[rng.random(batch.targets.shape) < 0.2] = -1
    allowed = (kept[..., None] == np.arange(24)).any(-2) | (kept < 0).all(-1, keepdims=True)
    batch = dataclasses.replace(batch, kept=kept)
    grads, stats = run(make_policy_update(), batch)
    logits = np.float64(dense_logits(tiny()[1], batch))
    loss, by_logits = policy_loss_by_hand(batch, logits, on_policy=False, allowed=allowed)
    np.testing.assert_allclose(stats["loss"], loss, rtol=1e-6)
    assert_close(grads, pull_back(batch, by_logits), atol=2e-6)


@pytest.mark.parametrize("ratio", ["token", pytest.param("sequence", marks=pytest.mark.slow)])
def test_right_answers_are_learned_by_their_likelihood_too(ratio):
    """VAPO: 0.3 times the mean negative log-likelihood of some sequences' tokens comes on top."""
    objective = PolicyObjective(ratio=ratio)
    weights_fn, optimizer = step.make_policy_weights(objective), optax.sgd(1.0)
    make = functools.partial(
        step.make_policy_loss, tiny()[0], objective, temperature=TEMPERATURE, on_policy=False
    )
    batch = make_batch()
    right = batch.mask & (batch.prompt_ids % 2 == 0)
    assert 0 < right.sum() < batch.mask.sum()
    batch = dataclasses.replace(batch, positive=(right / right.sum()).astype(np.float32))
    (without, before), (grads, stats) = (
        run((optimizer, step.make_update(make(positive_nll=coef), weights_fn, optimizer)), batch)
        for coef in (0.0, 0.3)
    )
    logs = log_softmax(np.float64(dense_logits(tiny()[1], batch)) / TEMPERATURE)
    one_hot = np.eye(logs.shape[-1])[batch.targets]
    nll = -np.sum(one_hot[right] * logs[right]) / right.sum()
    np.testing.assert_allclose(stats["positive_nll"], nll, rtol=1e-6)
    np.testing.assert_allclose(stats["loss"] - before["loss"], 0.3 * nll, rtol=1e-5)
    by_logits = 0.3 * (right / right.sum())[..., None] * (np.exp(logs) - one_hot) / TEMPERATURE
    assert_close(jax.tree.map(jnp.subtract, grads, without), pull_back(batch, by_logits), atol=2e-6)


@pytest.mark.parametrize("rows_per_micro", [1, 4])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "prompt_mean", "constant"])
def test_weights_are_of_the_whole_batch_however_it_is_cut(aggregation, rows_per_micro):
    length = LONGEST if aggregation == "constant" else None
    objective = PolicyObjective(aggregation=aggregation, constant_length=length)
    batch = make_batch()
    split, _ = packing.split_micro(batch, rows_per_micro)
    weights = jax.jit(step.make_policy_weights(objective))(split).reshape(batch.mask.shape)
    np.testing.assert_allclose(weights, weights_by_hand(aggregation, batch), rtol=1e-6)


def test_supervised_gradient_equals_dense_float64():
    batch = make_batch()
    grads, stats = run(make_supervised_update(), batch)
    logs = log_softmax(np.float64(dense_logits(tiny()[1], batch)))
    one_hot = np.eye(logs.shape[-1])[batch.targets]
    weights = batch.mask / batch.mask.sum()
    np.testing.assert_allclose(
        stats["loss"], -np.sum(weights * np.sum(one_hot * logs, axis=-1)), atol=1e-6
    )
    assert_close(grads, pull_back(batch, weights[..., None] * (np.exp(logs) - one_hot)), atol=1e-6)


@pytest.mark.parametrize("rows_per_micro", [1, 8])
def test_no_split_into_micro_batches_changes_an_update(rows_per_micro):
    """Gradient, loss and every statistic: sums, means, maxima."""
    batch, update = make_batch(), make_policy_update()
    (grads, stats), (wanted_grads, wanted) = (run(update, batch, n) for n in (rows_per_micro, 4))
    assert_close(grads, wanted_grads, atol=1e-5)
    assert stats.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(stats[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_packing_does_not_change_an_update():
    """Each sequence in a row of its own, or side by side."""
    update = make_policy_update()
    sequences = random_sequences(np.random.default_rng(1), 7, longest=LONGEST)
    packed = packing.pack(sequences, row_length=ROW_LENGTH, rows=ROWS)
    alone = [packing.pack([s], row_length=ROW_LENGTH, rows=1) for s in sequences]
    alone.append(packing.pack([], row_length=ROW_LENGTH, rows=1))
    loose = jax.tree.map(lambda *rows: np.concatenate(rows), *alone)
    (grads, stats), (wanted_grads, wanted) = run(update, packed), run(update, loose)
    assert_close(grads, wanted_grads, atol=1e-6)
    np.testing.assert_allclose(stats["loss"], wanted["loss"], rtol=1e-6)


# Moves nothing; its state is the gradient, to the last bit.
GRADIENT_ITSELF = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def groups_of_sequences(seed, *, prompts, samples, longest):
    """`samples` responses to each prompt, of lengths from 1 up; some tokens do not count."""
    rng = np.random.default_rng(seed)
    for prompt_id in range(prompts):
        prompt = rng.integers(0, 24, int(rng.integers(1, longest - 1)))
        for _ in range(samples):
            length = int(rng.integers(1, longest - len(prompt) + 1))
            yield packing.Sequence(
                tokens=np.concatenate([prompt, rng.integers(0, 24, length)]),
                mask=rng.random(length) < 0.8,
                advantages=np.full(length, rng.normal()),
                logp_behavior=-rng.exponential(1.0, length),
                prompt_id=prompt_id,
            )


@pytest.mark.parametrize(
    ("row_length", "aggregation"),
    [
        (14, "token_mean"),
        (40, "prompt_mean"),
        pytest.param(40, "constant", marks=pytest.mark.slow),
    ],
)
def test_sharing_prompts_does_not_change_an_update(row_length, aggregation):
    """Rows of one group and a half, and rows of several groups; a group may span rows."""
    sequences = list(groups_of_sequences(3, prompts=4, samples=5, longest=12))
    length = 12 if aggregation == "constant" else None
    objective = PolicyObjective(aggregation=aggregation, constant_length=length)
    loss = step.make_policy_loss(tiny()[0], objective, temperature=1.0, on_policy=False)
    update = jax.jit(
        functools.partial(
            step.update_step,
            loss_fn=loss,
            weigh=step.make_policy_weights(objective),
            optimizer=GRADIENT_ITSELF,
        )
    )
    results = []
    for share, block in ((False, 1), (True, 1), (True, 6)):
        options = {"share_prompts": share, "block": block}
        batch = packing.pack(sequences, row_length=row_length, rows=20, **options)
        state = step.init_state(tiny()[1], GRADIENT_ITSELF)
        state, stats = update(state, *packing.split_micro(batch, 4))
        results.append(((batch.segment_ids > 0).sum(), state.opt_state, stats))
    (places, wanted_grads, wanted), *others = results
    for fewer_places, grads, stats in others:
        assert fewer_places < 0.8 * places
        difference = optax.tree.norm(optax.tree.sub(grads, wanted_grads))
        assert difference < 1e-6 * optax.tree.norm(wanted_grads)
        assert stats.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(stats[name], value, rtol=2e-6, atol=2e-7, err_msg=name)


def attention_model(weights, batch):
    """Log-probs of the targets by two layers of attention, all in float64."""
    x = weights["embedding"][batch.tokens] + weights["positions"][batch.positions]
    names = ("segment_ids", "prefix_ids", "positions")
    ids = {f"{name}_BT": getattr(batch, name) for name in names}
    for kernels in weights["layers"]:
        heads = (jnp.einsum("btd,dnh->btnh", x, kernel) for kernel in kernels[:3])
        x = x + jnp.einsum("btnh,nhd->btd", attention.attend(*heads, **ids, block=8), kernels[3])
    at = jnp.take_along_axis(x, batch.sources[..., None], axis=1)
    logs = jax.nn.log_softmax(at @ weights["embedding"].T)
    return jnp.take_along_axis(logs, batch.targets[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize(
    "aggregation", ["prompt_mean", pytest.param("sequence_mean", marks=pytest.mark.slow)]
)
def test_sharing_prompts_is_exact_in_float64(aggregation):
    """Loss and gradient of shared and of repeated prompts, and of every sequence in its own row."""
    sequences = list(groups_of_sequences(4, prompts=3, samples=4, longest=13))
    objective = PolicyObjective(aggregation=aggregation, clip_high=0.28)
    rng = np.random.default_rng(6)
    kernels = [rng.normal(0, 0.5, shape) for shape in [(8, 2, 4)] * 3 + [(2, 4, 8)]]
    weights = {
        "embedding": rng.normal(size=(24, 8)),
        "positions": rng.normal(size=(13, 8)),
        "layers": [kernels, [0.7 * kernel for kernel in kernels]],
    }

    def total(weights, batch):
        return policy_loss(
            objective,
            logp=attention_model(weights, batch),
            logp_old=batch.logp_behavior,
            advantages=batch.advantages,
            mask=batch.mask,
            segment_ids=batch.sequence_ids,
            prompt_ids=batch.prompt_ids,
        )[0]

    with jax.enable_x64(True):
        weights = jax.tree.map(jnp.asarray, weights)
        found = []
        for row_length, share, block in (
            (30, True, 1),
            (30, True, 8),
            (30, False, 8),
            (13, False, 1),
        ):
            options = {"share_prompts": share, "block": block}
            batch = packing.pack(sequences, row_length=row_length, **options)
            batch = jax.tree.map(jnp.asarray, batch)
            found.append(jax.jit(jax.value_and_grad(total))(weights, batch))
        scale = max(abs(leaf).max() for leaf in jax.tree.leaves(found[0]))
        for other in found[1:]:
            assert_equal = functools.partial(
                np.testing.assert_allclose, rtol=1e-12, atol=1e-14 * scale
            )
            jax.tree.map(assert_equal, found[0], other)


def test_unused_micro_batches_are_never_computed():
    """A token outside the vocabulary reads NaN, which would reach every gradient."""
    update = make_policy_update()
    batch = make_batch(count=5)
    used = packing.split_micro(batch, 4)[1]
    assert used == 1
    tokens = batch.tokens.copy()
    tokens[4:] = 10**6
    poisoned = run(update, dataclasses.replace(batch, tokens=tokens))
    jax.tree.map(np.testing.assert_array_equal, poisoned, run(update, batch))
    counted = dataclasses.replace(batch, tokens=tokens, mask=np.ones_like(batch.mask))
    broken, _ = run(update, counted, used=2)
    assert np.isnan(broken["embedding"]).any()


def flops_of(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    "fields",
    [
        {"kl": "k3", "kl_coef": 0.1, "entropy_coef": 0.1, "clip_high": 0.28},
        pytest.param({"correction": "tis", "correction_high": 1.1}, marks=pytest.mark.slow),
    ],
)
def test_a_loss_by_tokens_is_the_same_when_all_log_probs_are_there(monkeypatch, fields):
    """Which is how a loss by sequences is computed."""
    objective, batch = PolicyObjective(**fields), make_batch()
    found = []
    for by_token in (True, False):
        monkeypatch.setattr(PolicyObjective, "is_by_token", by_token)
        loss = step.make_policy_loss(tiny()[0], objective, temperature=0.8, on_policy=False)
        optimizer, weigh = optax.sgd(1.0), step.make_policy_weights(objective)
        found.append(run((optimizer, step.make_update(loss, weigh, optimizer)), batch))
    (grads, stats), (wanted_grads, wanted) = found
    difference = optax.tree.norm(optax.tree.sub(grads, wanted_grads))
    assert difference < 1e-6 * optax.tree.norm(wanted_grads)
    assert stats.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(stats[name], value, rtol=2e-6, atol=2e-7, err_msg=name)


def test_on_policy_is_one_forward_and_one_backward_pass():
    """One program, of three times the forward pass's products: a second pass would be a third more.

    XLA counts a loop's body once, whatever its trips: here there is one of each.
    """
    module, params = make_tiny(layers=1, width=64, ffn=512, vocab_size=24)
    batch = make_batch(rows=1, count=2)
    split, used = packing.split_micro(batch, 1)
    objective = PolicyObjective()
    optimizer = optax.sgd(1.0)
    loss = step.make_policy_loss(module, objective, temperature=1.0, on_policy=True)
    update = step.make_update(loss, step.make_policy_weights(objective), optimizer)
    forward = flops_of(
        lambda params, batch: step.forward(module, params, batch, 1.0).logp, params, batch
    )
    state = step.init_state(jax.tree.map(jnp.copy, params), optimizer)
    whole = update.lower(state, split, np.int32(used)).compile().cost_analysis()["flops"]
    assert 2.5 * forward < whole < 3.5 * forward
    update(jax.tree.map(jnp.copy, state), split, np.int32(used))
    with counted_compiles() as compiles:
        update(state, split, np.int32(used))
    assert compiles.count == 0


def test_a_batch_without_a_counted_token_moves_nothing():
    batch = make_batch()
    empty = dataclasses.replace(batch, mask=np.zeros_like(batch.mask))
    grads, stats = run(make_policy_update(), empty)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))
    assert stats["loss"] == stats["tokens"] == 0


def test_statistics_are_of_counted_tokens():
    batch = make_batch()
    _, stats = run(make_policy_update(), batch)
    logs = log_softmax(np.float64(dense_logits(tiny()[1], batch)) / TEMPERATURE)
    logp = np.take_along_axis(logs, batch.targets[..., None], axis=-1)[..., 0][batch.mask]
    entropy = -np.sum(np.exp(logs) * logs, axis=-1)[batch.mask]
    log_ratio = logp - batch.logp_behavior[batch.mask]
    wanted = {
        "tokens": batch.mask.sum(),
        "entropy": entropy.mean(),
        "logp_gap": np.abs(log_ratio).mean(),
        "logp_gap_max": np.abs(log_ratio).max(),
        "ratio/mean": np.exp(log_ratio).mean(),
        "ratio/max": np.exp(log_ratio).max(),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(stats[name], value, rtol=1e-4, err_msg=name)


def test_the_old_state_is_given_away_and_the_next_update_compiles_nothing():
    optimizer, update = make_policy_update()
    params = jax.tree.map(jnp.copy, tiny()[1])
    old = step.init_state(params, optimizer)
    split, used = packing.split_micro(make_batch(), 4)
    state, _ = update(old, split, np.int32(used))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    with counted_compiles() as compiles:
        state, _ = update(state, packing.split_micro(make_batch(1, 3), 4)[0], np.int32(1))
    assert compiles.count == 0
    assert state.step == 2


def test_gradients_are_added_in_float32_for_a_bfloat16_model():
    """256 equal micro-batches: a bfloat16 sum would stop growing on the way."""
    module, params = make_tiny(dtype="bfloat16", layers=1)
    one = make_batch(rows=1, count=1)
    many = jax.tree.map(lambda leaf: np.repeat(leaf, 256, axis=0)[:, None], one)
    optimizer = optax.sgd(1.0)
    update = jax.jit(
        functools.partial(
            step.update_step,
            loss_fn=step.make_supervised_loss(module),
            weigh=step.supervised_weights,
            optimizer=optimizer,
        )
    )
    state = step.init_state(params, optimizer)
    moved, same = (update(state, many, np.int32(n))[0].params for n in (256, 1))
    by_all, by_one = (jax.tree.map(jnp.subtract, params, x) for x in (moved, same))
    assert_close(by_all, jax.tree.map(lambda leaf: 256 * leaf, by_one), atol=1e-4)
