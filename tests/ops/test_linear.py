"""Products of few rows with a large matrix."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import mesh as mesh_lib
from r1jax.ops.linear import (
    ALONE_ENTRIES,
    TURNED_ENTRIES,
    TURNED_ROWS,
    linear,
    multiply,
    sum_of_products,
)
from r1jax.ops.logprobs import compute_logits

INPUTS, OUTPUTS = 256, 520
FIRST_AXES, ROW_BY_ROW = "contracting_dims = [0] x [0]", "contracting_dims = [1] x [0]"


def draw(rows, inputs=INPUTS, outputs=OUTPUTS):
    rng = np.random.default_rng(rows)
    shapes = (rows, inputs), (inputs, outputs), (rows, outputs)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 20, TURNED_ROWS, TURNED_ROWS + 1])
def test_any_number_of_rows_gives_the_product_and_its_gradients(rows):
    x, matrix, by = draw(rows)
    assert matrix.size >= TURNED_ENTRIES
    product, pull = jax.vjp(jax.jit(multiply), x, matrix)
    of_64 = [a.astype(np.float64) for a in (x, matrix, by)]
    wanted = [of_64[0] @ of_64[1], of_64[2] @ of_64[1].T, of_64[0].T @ of_64[2]]
    for found, right in zip((product, *pull(by)), wanted, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4)


def test_under_vmap_and_outside_of_jit():
    x, matrix, _ = map(jnp.asarray, draw(5))
    stacked = jnp.stack([matrix, 2 * matrix])
    both = jax.vmap(multiply, in_axes=(None, 0))(x, stacked)
    np.testing.assert_allclose(both[1], 2 * multiply(x, matrix), rtol=0, atol=1e-4)


def lowered(rows, platform, *shape, precision=None):
    x, matrix, _ = draw(rows, *shape)
    traced = jax.jit(multiply, static_argnums=2).trace(x, matrix, precision)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("precision", [None, jax.lax.Precision.HIGHEST])
def test_few_rows_lie_turned_on_a_cpu_and_nowhere_else(precision):
    assert FIRST_AXES in lowered(20, "cpu", precision=precision)
    for platform in ("tpu", "cuda"):
        text = lowered(20, platform, precision=precision)
        assert text.count("dot_general") == text.count(ROW_BY_ROW) == 1
    # And XLA does not turn them back, which would leave the product to YNNPACK.
    compiled = jax.jit(multiply).lower(*draw(20)[:2]).compile().as_text()
    assert re.findall(r" dot\(.*lhs_contracting_dims=\{(\d)\}", compiled) == ["0"]


@pytest.mark.parametrize("rows", [2, 4])
def test_very_few_rows_are_multiplied_alone_on_a_cpu_and_nowhere_else(rows):
    assert lowered(rows, "cpu").count("dot_general") == rows
    assert lowered(rows, "tpu").count("dot_general") == 1
    # And XLA does not make one product of them.
    compiled = jax.jit(multiply).lower(*draw(rows)[:2]).compile().as_text()
    assert re.findall(r"f32\[(\d+),\d+\]\S* dot\(", compiled) == ["1"] * rows


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [
        (1, INPUTS, OUTPUTS),
        (TURNED_ROWS + 1, INPUTS, OUTPUTS),
        (20, 64, TURNED_ENTRIES // 64 - 1),
        (2, 64, ALONE_ENTRIES // 64 - 1),
    ],
)
def test_one_row_many_rows_and_small_matrices_are_left_alone(rows, inputs, outputs):
    text = lowered(rows, "cpu", inputs, outputs)
    assert text.count("dot_general") == text.count(ROW_BY_ROW) == 1


@pytest.mark.parametrize("rows", [2, 20])
def test_on_a_mesh_of_several_devices_rows_stay_where_they_are(rows):
    with mesh_lib.use(mesh_lib.make_mesh(data=2)):
        text = lowered(rows, "cpu")
    assert text.count("dot_general") == text.count(ROW_BY_ROW) == 1
    with mesh_lib.use(mesh_lib.make_mesh(data=1)):
        assert lowered(rows, "cpu") != text


def test_a_steps_projections_and_logits_are_such_products():
    x, matrix, _ = draw(20)
    for program in (lambda x, kernel: linear(x[:, None], kernel), compute_logits):
        assert FIRST_AXES in jax.jit(program).lower(x, matrix).as_text()


def test_the_left_side_of_a_sum_of_products_is_turned_on_a_cpu_and_nowhere_else():
    left, right = draw(96)[0], draw(96)[2]
    exact = left.astype(np.float64).T @ right.astype(np.float64)
    summed = jax.jit(sum_of_products)
    np.testing.assert_allclose(summed(left, right), exact, rtol=0, atol=1e-4)
    for platform in ("tpu", "cuda"):
        text = summed.trace(left, right).lower(lowering_platforms=(platform,)).as_text()
        assert "optimization_barrier" not in text
    # And XLA does not turn it back, which would leave the product to Eigen.
    compiled = summed.lower(left, right).compile().as_text()
    assert re.findall(r" dot\(.*lhs_contracting_dims=\{(\d)\}", compiled) == ["1"]
