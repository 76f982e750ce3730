"""Chunked log-probabilities against dense ones in float64, and what they may hold in memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile_fully, largest_buffer, log_softmax

from r1jax import mesh as mesh_lib
from r1jax.ops.logprobs import compute_logits, scored_logprobs, token_logprobs

ROWS, LENGTH, WIDTH, VOCABULARY = 3, 7, 5, 11


# With the other, on a CPU, exponentials are summed in sixteen pieces.
any_vocabulary = pytest.mark.parametrize("vocabulary", [VOCABULARY, 32])


def make_inputs(dtype=np.float32, vocabulary=VOCABULARY):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(dtype)
    head = (2 * rng.normal(size=(WIDTH, vocabulary))).astype(dtype)
    targets = rng.integers(0, vocabulary, (ROWS, LENGTH))
    return jnp.asarray(hidden), jnp.asarray(head), jnp.asarray(targets)


def dense(hidden, head, targets, temperature=1.0):
    """(log-probs, entropies, gradient of the sum of each by the logits), in float64."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64) / temperature
    logs = log_softmax(logits)
    probs = np.exp(logs)
    entropy = -np.sum(probs * logs, axis=-1)
    chosen = np.take_along_axis(logs, np.asarray(targets)[..., None], axis=-1)[..., 0]
    logp_by_logits = (np.eye(logits.shape[-1])[np.asarray(targets)] - probs) / temperature
    entropy_by_logits = -probs * (logs + entropy[..., None]) / temperature
    return chosen, entropy, logp_by_logits, entropy_by_logits


def after(hidden, head, targets, score, data, **options):
    """The loss by log-probs first; what `scored_logprobs` does chunk by chunk."""
    logp, entropy = token_logprobs(hidden, head, targets, **options)
    return score(logp, entropy, data)


def along(hidden, head, targets, score, data, **options):
    merge = functools.partial(jax.tree.map, jnp.add)
    return scored_logprobs(hidden, head, targets, score, data, merge=merge, **options)


def weigh(logp, entropy, data):
    by_logp, by_entropy = data
    return jnp.sum(by_logp * logp + by_entropy * entropy), ()


both_ways = pytest.mark.parametrize("way", [after, along])


@both_ways
def test_logits_have_one_axis_of_rows_and_columns(way):
    """With an axis of one row XLA:CPU sums them seven times as slowly."""
    hidden, head, targets = (x[:1] if x.shape[0] == ROWS else x for x in make_inputs())
    data = tuple(jnp.ones((2, *targets.shape)))

    def loss(hidden, head):
        return way(hidden, head, targets, weigh, data, chunk=4)[0]

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(hidden, head))
    assert f"f32[4,{VOCABULARY}]" in text
    assert not re.search(rf"\[\d+,\d+,{VOCABULARY}\]", text)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 4, 7, ROWS * LENGTH, 1000])
@any_vocabulary
def test_values_and_gradients_equal_dense_float64(chunk, temperature, vocabulary):
    hidden, head, targets = make_inputs(vocabulary=vocabulary)
    rng = np.random.default_rng(1)
    by_logp, by_entropy = rng.normal(size=(2, ROWS, LENGTH)).astype(np.float32)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def weighed(hidden, head):
        logp, entropy = token_logprobs(hidden, head, targets, temperature=temperature, chunk=chunk)
        return jnp.sum(by_logp * logp + by_entropy * entropy), (logp, entropy)

    (_, (logp, entropy)), (by_hidden, by_head) = jax.jit(weighed)(hidden, head)
    wanted_logp, wanted_entropy, logp_by, entropy_by = dense(hidden, head, targets, temperature)
    by_logits = by_logp[..., None] * logp_by + by_entropy[..., None] * entropy_by
    np.testing.assert_allclose(logp, wanted_logp, atol=5e-6)
    np.testing.assert_allclose(entropy, wanted_entropy, atol=5e-6)
    np.testing.assert_allclose(by_hidden, by_logits @ np.asarray(head).T, atol=2e-5)
    np.testing.assert_allclose(
        by_head, np.einsum("btd,btv->dv", np.asarray(hidden), by_logits), atol=2e-5
    )


def curved(logp, entropy, data):
    """A loss whose gradient depends on the log-probs, of the targets that count."""
    mask, old, weight = data
    ratio = jnp.exp(logp - old)
    term = weight * (jnp.minimum(ratio, 1.1) - 0.3 * logp * entropy)
    told = {"counted": jnp.sum(mask).astype(jnp.float32), "logp": jnp.sum(jnp.where(mask, logp, 0))}
    return jnp.sum(jnp.where(mask, term, 0)), told


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("kept", [False, True])
def test_a_loss_scored_chunk_by_chunk_is_that_of_all_log_probs(chunk, temperature, kept):
    """With targets that do not count, places of their own, sampler's sets, and a later factor."""
    hidden, head, targets = make_inputs()
    rng = np.random.default_rng(5)
    mask = jnp.asarray(rng.random(targets.shape) < 0.6)
    old, weight = jnp.asarray(rng.normal(size=(2, *targets.shape)), jnp.float32) - 2
    options = {
        "temperature": jnp.float32(temperature),
        "chunk": chunk,
        "mask_BC": mask,
        "sources_BC": jnp.asarray(rng.integers(0, LENGTH, targets.shape)),
        "kept_BCM": jnp.asarray(kept_sets(rng, targets, room=5)) if kept else None,
    }

    def run(way):
        @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
        def total(hidden, head):
            loss, told = way(hidden, 0.3 * head, targets, curved, (mask, old, weight), **options)
            return 3 * loss + jnp.sum(head), told  # the gradient is multiplied and added to

        return jax.jit(total)(hidden, head)

    for x, y in zip(*(jax.tree.leaves(run(way)) for way in (along, after)), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-6, atol=2e-5)


def test_a_score_of_nothing_is_nothing():
    hidden, head, targets = make_inputs()
    none = jnp.zeros(targets.shape, bool)
    data = (none, *jnp.ones((2, *targets.shape)))

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def total(hidden, head):
        return along(hidden, head, targets, curved, data, mask_BC=none)

    found = jax.tree.leaves(total(hidden, jnp.full_like(head, jnp.nan)))
    assert not any(np.any(leaf) for leaf in found)


def test_scored_along_the_way_the_head_is_multiplied_three_times_and_not_four():
    hidden, head, targets = make_inputs()
    ones = jnp.ones((2, *targets.shape))

    def products(way):
        def total(hidden, head):
            return way(hidden, head, targets, weigh, tuple(ones), chunk=6)[0]

        text = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(hidden, head).as_text()
        return text.count("dot_general")

    # Three for the first chunk, and three in a loop over the others.
    assert (products(after), products(along)) == (4, 3 + 3)


def test_exponentials_are_made_twice_on_a_cpu_and_three_times_elsewhere():
    """For both sums at once, and for the gradient."""

    def exponentials(vocabulary, platform):
        hidden, head, targets = make_inputs(vocabulary=vocabulary)
        data = tuple(jnp.ones((2, *targets.shape)))

        def total(hidden, head):
            return along(hidden, head, targets, weigh, data, chunk=1000)[0]

        traced = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).trace(hidden, head)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("exponential ")

    # Of the first chunk, and in a loop over others.
    assert exponentials(32, "cpu") == 2 * 2
    assert exponentials(32, "tpu") == exponentials(32, "cuda") == 2 * 3
    assert exponentials(VOCABULARY, "cpu") == 2 * 3  # it has no sixteen equal pieces


def test_an_embedding_as_head_is_multiplied_as_it_lies():
    """Without `turned` it is copied for the loop over chunks."""
    hidden, head, targets = make_inputs()
    embedding = head.T.copy()
    data = tuple(jnp.ones((2, *targets.shape)))

    def run(turned):
        @functools.partial(jax.value_and_grad, argnums=(0, 1))
        def total(hidden, embedding):
            options = {"chunk": 6, "turned": turned}
            return along(hidden, embedding.T, targets, weigh, data, **options)[0]

        compiled = compile_fully(jax.jit(total).lower(hidden, embedding))
        rows, columns = head.shape
        copies = rf"f32\[{rows},{columns}\]\S* (copy|transpose)\(%(param|Arg)"
        return len(re.findall(copies, compiled.as_text())), compiled(hidden, embedding)

    (copies, found), (some_copies, wanted) = run(True), run(False)
    assert copies == 0 < some_copies
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_a_traced_temperature_is_the_same():
    inputs = make_inputs()
    traced = jax.jit(lambda t: token_logprobs(*inputs, temperature=t))(jnp.float32(0.6))
    for x, y in zip(traced, token_logprobs(*inputs, temperature=0.6), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_logits_of_bfloat16_are_computed_in_float32():
    hidden, head, targets = make_inputs(jnp.bfloat16)
    logp, _ = token_logprobs(hidden, head, targets)
    assert compute_logits(hidden, head).dtype == logp.dtype == jnp.float32
    np.testing.assert_allclose(logp, dense(hidden, head, targets)[0], atol=5e-6)


@any_vocabulary
def test_logits_far_apart_stay_finite(vocabulary):
    hidden, head, targets = make_inputs(vocabulary=vocabulary)
    logp, entropy = token_logprobs(1e4 * hidden, head, targets)
    wanted = dense(1e4 * hidden, head, targets)
    np.testing.assert_allclose(logp, wanted[0], rtol=1e-5, atol=0.02)
    np.testing.assert_allclose(entropy, wanted[1], atol=1e-3)


@any_vocabulary
def test_the_entropy_is_as_exact_where_logits_are_large(vocabulary):
    """Softmax does not change when all logits grow by the same, here without rounding."""
    logits = np.random.default_rng(0).integers(-200, 200, (2, 5, vocabulary)) / 64
    head, targets = jnp.eye(vocabulary), jnp.zeros((2, 5), jnp.int32)
    _, wanted = token_logprobs(jnp.asarray(logits, jnp.float32), head, targets)
    _, found = token_logprobs(jnp.asarray(logits + 2048, jnp.float32), head, targets)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("target", [-1, 10**6])
def test_a_target_that_is_no_word_is_finite_and_alike_on_every_path(target):
    """Masked places may hold anything."""
    hidden, head, targets = make_inputs()
    nowhere = jnp.full_like(targets, target)
    alone, _ = token_logprobs(hidden, head, nowhere)
    with mesh_lib.use(mesh_lib.make_mesh(data=2)):
        split, _ = jax.jit(token_logprobs)(hidden, head, nowhere)
    np.testing.assert_allclose(alone, split, atol=1e-6)
    log_sum = jax.nn.logsumexp(compute_logits(hidden, head), axis=-1)
    np.testing.assert_allclose(alone, -log_sum, atol=1e-5)


@both_ways
@pytest.mark.parametrize("truncated", [False, True])
def test_no_array_of_tokens_by_vocabulary_is_ever_made(truncated, way):
    """Forward and backward hold one array of a chunk's logits; dense ones would be 8 of these."""
    length, width, vocabulary, chunk = 512, 8, 4000, 64
    named = 100 if truncated else 0  # so many words of each target
    shapes = [((1, length, width), "float32"), ((width, vocabulary), "float32")]
    hidden, head = (jax.ShapeDtypeStruct(*shape) for shape in shapes)
    targets = jax.ShapeDtypeStruct((1, length), "int32")
    kept = jax.ShapeDtypeStruct((1, length, named), "int32") if truncated else None

    def total(hidden, head, targets, kept):
        ones = jnp.ones(targets.shape)
        return way(hidden, head, targets, weigh, (ones, ones), chunk=chunk, kept_BCM=kept)[0]

    lowered = jax.jit(jax.grad(total, argnums=(0, 1))).lower(hidden, head, targets, kept)
    compiled = compile_fully(lowered)
    assert largest_buffer(compiled.as_text()) == chunk * vocabulary
    logits_bytes, named_bytes = 4 * chunk * vocabulary, 4 * length * named
    most = 1.5 * logits_bytes + 3 * named_bytes
    assert compiled.memory_analysis().temp_size_in_bytes < most


@pytest.mark.parametrize("chunk", [3, 9, 1000])
def test_uncounted_targets_are_left_out_and_sources_chosen(chunk):
    """Values and gradients of the counted ones, predicted wherever they say."""
    hidden, head, targets = make_inputs()
    rng = np.random.default_rng(2)
    mask = rng.random(targets.shape) < 0.4
    mask[1] = False
    sources = rng.integers(0, LENGTH, targets.shape)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def counted(hidden, head, **options):
        logp, entropy = token_logprobs(hidden, head, targets, chunk=chunk, **options)
        return jnp.sum(jnp.where(mask, logp + 0.3 * entropy, 0)), (logp, entropy)

    (_, found), grads = jax.jit(counted)(hidden, head, mask_BC=mask, sources_BC=sources)

    def plain(hidden, head):
        return counted(jnp.take_along_axis(hidden, sources[..., None], axis=1), head)

    (_, wanted), _ = plain(hidden, head)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(x)[mask], np.asarray(y)[mask], atol=1e-6)
    wanted_grads = jax.grad(lambda *args: plain(*args)[0][0], argnums=(0, 1))(hidden, head)
    for x, y in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)


def test_work_follows_the_counted_targets_and_nothing_recompiles():
    """NaN in the head shows which chunks were computed: those up to the longest row's last one."""
    hidden, head, targets = make_inputs()
    logprobs = jax.jit(functools.partial(token_logprobs, chunk=6))  # two columns of three rows
    broken = jnp.full_like(head, jnp.nan)
    for counted, computed in ((0, 0), (1, 2), (2, 2), (3, 4), (7, 7)):
        mask = np.zeros(targets.shape, bool)
        mask[1, LENGTH - counted :] = True
        logp, _ = logprobs(hidden, broken, targets, mask_BC=mask)
        assert np.isnan(logp[1]).sum() == computed
        assert not np.isfinite(logp[mask]).any()
    assert logprobs._cache_size() == 1


@both_ways
def test_the_gradient_of_a_bfloat16_head_is_summed_in_float32(way):
    """2,048 equal targets: a bfloat16 sum stops growing after a few hundred."""
    hidden = jnp.ones((1, 2048, 2), jnp.bfloat16)
    head = jnp.zeros((2, 4), jnp.bfloat16)
    targets = jnp.zeros((1, 2048), jnp.int32)

    @jax.jit
    @jax.grad
    def by_head(head):
        data = jnp.ones(targets.shape), jnp.zeros(targets.shape)
        return way(hidden, head, targets, weigh, data, chunk=1)[0]

    np.testing.assert_array_equal(np.float32(by_head(head)[0]), [1536, -512, -512, -512])


@both_ways
@pytest.mark.parametrize("truncated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_vocabulary_split_over_devices_changes_nothing_and_is_never_collected(truncated, way):
    length, width, vocabulary, chunk = 64, 8, 512, 16
    rng = np.random.default_rng(3)
    hidden = jnp.asarray(rng.normal(size=(2, length, width)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(width, vocabulary)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, vocabulary, (2, length)))
    others = jnp.asarray(rng.integers(-1, vocabulary, (2, length, 4)))
    kept = jnp.concatenate([targets[..., None], others], axis=-1) if truncated else None

    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def total(hidden, head):
        data = (jnp.ones(targets.shape, bool), *jnp.ones((2, *targets.shape)))
        return way(hidden, head, targets, curved, data, chunk=chunk, kept_BCM=kept)[0]

    wanted = jax.jit(total)(hidden, head)
    mesh = jax.make_mesh((4,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.P(None, "tensor"))
    lowered = jax.jit(total).lower(hidden, jax.device_put(head, split))
    compiled = compile_fully(lowered)
    assert largest_buffer(compiled.as_text()) <= chunk * vocabulary // 4
    found = compiled(hidden, jax.device_put(head, split))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-5), found, wanted)


def kept_sets(rng, targets, room):
    """Sets that hold their target, in any order, of 1 to `room` tokens, some of them named twice;
    row 0 keeps everything."""
    kept = np.full((*targets.shape, room), -1)
    for place in np.ndindex(*targets.shape):
        target = int(targets[place])
        others = rng.permutation([word for word in range(VOCABULARY) if word != target])
        chosen = [target, *others[: rng.integers(0, room)]]
        kept[place][rng.permutation(room)[: len(chosen)]] = chosen
        if place[1] % 2:
            kept[place][kept[place] < 0] = chosen[-1]
    kept[0] = -1
    return kept


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [3, 1000])
def test_of_a_truncated_sampler_the_kept_tokens_share_all_probability(chunk, temperature):
    """Values and gradients against a dense float64 softmax whose other logits are -inf."""
    hidden, head, targets = make_inputs()
    rng = np.random.default_rng(4)
    kept = kept_sets(rng, targets, room=5)
    by_logp, by_entropy = rng.normal(size=(2, ROWS, LENGTH)).astype(np.float32)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def weighed(hidden, head):
        options = {"temperature": temperature, "chunk": chunk, "kept_BCM": jnp.asarray(kept)}
        logp, entropy = token_logprobs(hidden, head, targets, **options)
        return jnp.sum(by_logp * logp + by_entropy * entropy), (logp, entropy)

    (_, (logp, entropy)), (by_hidden, by_head) = jax.jit(weighed)(hidden, head)
    words = np.arange(VOCABULARY)
    allowed = (kept[..., None] == words).any(-2) | (kept < 0).all(-1)[..., None]
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64) / temperature
    logs = log_softmax(np.where(allowed, logits, -np.inf))
    one_hot = np.eye(logits.shape[-1])[np.asarray(targets)]
    _, wanted_entropy, _, entropy_by = dense(hidden, head, targets, temperature)
    by_logits = by_logp[..., None] * (one_hot - np.exp(logs)) / temperature
    by_logits += by_entropy[..., None] * entropy_by
    np.testing.assert_allclose(logp, np.sum(np.where(one_hot, logs, 0), -1), atol=5e-6)
    np.testing.assert_allclose(entropy, wanted_entropy, atol=5e-6)
    np.testing.assert_allclose(by_hidden, by_logits @ np.asarray(head).T, atol=2e-5)
    np.testing.assert_allclose(
        by_head, np.einsum("btd,btv->dv", np.asarray(hidden), by_logits), atol=2e-5
    )


@any_vocabulary
@pytest.mark.parametrize(("rows", "places"), [(0, 3), (2, 0), (0, 0)])
def test_no_targets_have_no_log_probs(rows, places, vocabulary):
    hidden, head = jnp.ones((rows, places, 4)), jnp.ones((4, vocabulary))
    targets = jnp.zeros((rows, places), jnp.int32)

    def total(hidden, head):
        logp, entropy = token_logprobs(hidden, head, targets)
        assert logp.shape == entropy.shape == (rows, places)
        return logp.sum() + entropy.sum()

    value, grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(hidden, head)
    assert value == 0
    assert not any(grad.any() for grad in grads)


def test_a_chunk_has_a_target():
    with pytest.raises(ValueError, match="chunk=0: must be 1 or more"):
        token_logprobs(jnp.ones((1, 2, 4)), jnp.ones((4, 7)), jnp.zeros((1, 2), jnp.int32), chunk=0)
