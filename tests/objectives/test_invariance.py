"""How a step is split, packed, padded or ordered must not change its loss or its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives import PolicyObjective, policy, policy_loss

OBJECTIVES = {
    "token_mean": PolicyObjective(clip_high=0.28, kl="k3", kl_coef=0.1, entropy_coef=0.01),
    "sequence_mean": PolicyObjective(aggregation="sequence_mean", dual_clip=3.0),
    "prompt_mean": PolicyObjective(aggregation="prompt_mean", surrogate="cispo", clip_low=None),
    "constant": PolicyObjective(aggregation="constant", constant_length=9, surrogate="reinforce"),
    "gspo": PolicyObjective(ratio="sequence", aggregation="sequence_mean"),
    "gspo_token": PolicyObjective(ratio="sequence_token", aggregation="prompt_mean"),
    "sapo": PolicyObjective(surrogate="sapo", kl="k3_unbiased", kl_coef=0.1),
    "corrected": PolicyObjective(
        correction="sequence_mask",
        correction_low=0.5,
        correction_high=2.0,
        off_policy_delta=0.05,
        kl="k2",
        kl_coef=0.1,
    ),
    "product": PolicyObjective(correction="sequence_product_tis", correction_high=1.5),
}
QUICK = ("token_mean", "prompt_mean", "corrected")
QUICK_FIRST = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OBJECTIVES]
REAL = ("logp", "logp_old", "logp_ref", "logp_behavior", "entropy", "advantages")


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def make_step(rng, *, prompts=3, samples=3, longest=6):
    """The sequences of one step as dicts of 1-D arrays: some tokens do not count, some sequences
    have no token that counts, some prompts one sample only."""
    sequences = []
    for prompt in range(prompts):
        for _ in range(rng.integers(1, samples + 1)):
            length = int(rng.integers(1, longest + 1))
            logp = -rng.exponential(1.0, length)
            near = {name: logp + 0.4 * rng.normal(size=length) for name in REAL[1:4]}
            sequences.append(
                {
                    "logp": logp,
                    **near,
                    "entropy": rng.exponential(1.0, length),
                    "advantages": np.full(length, rng.normal()),
                    "mask": rng.random(length) < 0.8,
                    "prompt_ids": np.full(length, prompt * 1000 - 7),
                }
            )
    sequences[0]["mask"][:] = False
    return sequences


def pack(rng, sequences, *, total_rows=12, row_length=16):
    """Lay sequences into rows at random, garbage between and around them: rows and places.

    The shape is nearly always the same, so that little has to be compiled.
    """
    rows, places = [], [None] * len(sequences)
    for number in rng.permutation(len(sequences)):
        length = len(sequences[number]["logp"])
        if not rows or rows[-1] + length > row_length or rng.random() < 0.3:
            rows.append(0)
        start = rows[-1] + int(rng.integers(0, row_length - rows[-1] - length + 1))
        places[number] = (len(rows) - 1, slice(start, start + length))
        rows[-1] = start + length
    assert len(rows) <= total_rows
    shape = (total_rows, row_length)
    batch = {name: rng.choice([-np.inf, 1e30, 0.5, np.nan], shape) for name in REAL}
    batch |= {"mask": rng.random(shape) < 0.5, "segment_ids": np.zeros(shape, "int32")}
    batch |= {"prompt_ids": rng.integers(-5, 5, shape)}
    ids = rng.permutation(100)[: len(sequences)] + 1
    for number, place in enumerate(places):
        for name, values in sequences[number].items():
            batch[name][place] = values
        batch["segment_ids"][place] = ids[number]
    return batch, places


@functools.partial(
    jax.jit,
    static_argnums=0,
    compiler_options={"xla_backend_optimization_level": 0},  # compiling is what takes the time
)
def compute(objective, batch, weights):
    """Loss, statistics and gradient with respect to logp."""

    def loss(logp):
        return policy_loss(objective, **{**batch, "logp": logp}, weights=weights)

    return jax.value_and_grad(loss, has_aux=True)(batch["logp"])


def by_sequence(gradient, places):
    return [np.asarray(gradient)[place] for place in places]


def reference(objective, sequences):
    """Each sequence in a row of its own, nothing else around: the plain reading of the formulas."""
    total = {"tokens": 0, "sequences": 0}
    sizes = {}
    for sequence in sequences:
        count = int(sequence["mask"].sum())
        prompt = sequence["prompt_ids"][0]
        sizes[prompt] = sizes.get(prompt, 0) + count
        total["tokens"] += count
        total["sequences"] += count > 0
    prompts = sum(size > 0 for size in sizes.values())
    loss, gradients = 0.0, []
    for sequence in sequences:
        count = max(int(sequence["mask"].sum()), 1)
        weight = {
            "token_mean": 1 / max(total["tokens"], 1),
            "sequence_mean": 1 / count / max(total["sequences"], 1),
            "prompt_mean": 1 / max(sizes[sequence["prompt_ids"][0]], 1) / max(prompts, 1),
            "constant": 1 / len(sequences) / (objective.constant_length or 1),
        }[objective.aggregation]
        length = len(sequence["mask"])
        row = {**sequence, "segment_ids": np.full(length, 3, "int32")}
        row = {k: jnp.asarray(np.pad(v, (0, 16 - length)))[None] for k, v in row.items()}
        (value, _), gradient = compute(objective, row, jnp.full((1, 16), weight))
        loss += value
        gradients.append(np.asarray(gradient)[0, :length])
    return loss, gradients


def assert_same(loss, gradients, expected):
    np.testing.assert_allclose(loss, expected[0], rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packing_padding_and_order(name):
    objective = OBJECTIVES[name]
    rng = np.random.default_rng(0)
    sequences = make_step(rng)
    expected = reference(objective, sequences)
    for _ in range(4):
        batch, places = pack(rng, sequences)
        batch = {k: jnp.asarray(v) for k, v in batch.items()}
        (loss, _), gradient = compute(objective, batch, None)
        assert_same(loss, by_sequence(gradient, places), expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches(name):
    objective = OBJECTIVES[name]
    rng = np.random.default_rng(1)
    sequences = make_step(rng)
    batch, places = pack(rng, sequences)
    expected = reference(objective, sequences)
    ids = {"segment_ids": batch["segment_ids"], "prompt_ids": batch["prompt_ids"]}
    weights = policy.token_weights(objective, batch["mask"], dtype="float64", **ids)
    rows = len(weights)
    (_, whole), _ = compute(objective, {k: jnp.asarray(v) for k, v in batch.items()}, None)
    for size in [1, 3] if name in QUICK else [1]:
        loss, stats, gradient = 0.0, None, np.zeros_like(weights)
        for chosen in rng.permutation(rows).reshape(-1, size):
            part = {k: jnp.asarray(v[chosen]) for k, v in batch.items()}
            (value, more), rows_gradient = compute(objective, part, jnp.asarray(weights[chosen]))
            loss += value
            gradient[chosen] = rows_gradient
            stats = more if stats is None else policy.add_stats(stats, more)
        assert_same(loss, by_sequence(gradient, places), expected)
        for key, value in policy.mean_stats(whole).items():
            other = policy.mean_stats(stats)[key]
            np.testing.assert_allclose(other, value, rtol=1e-12, atol=1e-14, err_msg=key)


@pytest.mark.parametrize("name", ["token_mean", "sequence_mean", "constant"])
def test_denominator_makes_micro_batches_add_up(name):
    objective = OBJECTIVES[name]
    rng = np.random.default_rng(2)
    sequences = make_step(rng)
    batch, _ = pack(rng, sequences)
    expected, _ = reference(objective, sequences)
    count = sum(s["mask"].sum() for s in sequences)
    denominator = {
        "token_mean": count,
        "sequence_mean": sum(s["mask"].any() for s in sequences),
        "constant": len(sequences) * 9,
    }[name]
    total = 0.0
    for row in range(len(batch["mask"])):
        part = {k: v[row : row + 1] for k, v in batch.items()}
        total += policy_loss(objective, denominator=float(denominator), **part)[0]
    np.testing.assert_allclose(total, expected, rtol=1e-12)


@pytest.mark.parametrize("devices", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
@pytest.mark.parametrize("name", QUICK_FIRST)
def test_any_number_of_devices_equals_one(name, devices):
    objective = OBJECTIVES[name]
    rng = np.random.default_rng(3)
    batch, _ = pack(rng, make_step(rng), total_rows=16)
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    (loss, stats), gradient = compute(objective, batch, None)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(batch, jax.sharding.NamedSharding(mesh, jax.P("data")))
    (split_loss, split_stats), split_gradient = compute(objective, sharded, None)
    np.testing.assert_allclose(split_loss, loss, rtol=1e-12)
    np.testing.assert_allclose(split_gradient, gradient, rtol=1e-12, atol=1e-16)
    for key, value in stats.items():
        np.testing.assert_allclose(split_stats[key], value, rtol=1e-12, atol=1e-14, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_many_random_steps(name, seed):
    objective = OBJECTIVES[name]
    rng = np.random.default_rng(seed)
    sequences = make_step(rng, prompts=int(rng.integers(1, 5)), samples=4)
    batch, places = pack(rng, sequences, total_rows=16)
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    (loss, _), gradient = compute(objective, batch, None)
    assert_same(loss, by_sequence(gradient, places), reference(objective, sequences))


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_single_precision(name):
    objective = OBJECTIVES[name]
    rng = np.random.default_rng(4)
    sequences = make_step(rng)
    expected = reference(objective, sequences)
    batch, places = pack(rng, sequences)
    single = {k: jnp.asarray(v, "float32" if k in REAL else v.dtype) for k, v in batch.items()}
    (loss, _), gradient = compute(objective, single, None)
    scale = max(np.abs(g).max() for g in expected[1])
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(by_sequence(gradient, places), expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * scale)
