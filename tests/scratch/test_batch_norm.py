"""The book's batch normalisation: its own conventions, and statistics per channel."""

import math

import numpy as np
import pytest

from tests.support.scratch import draw, slope_at
from xpcnn.errors import ShapeError
from xpcnn.scratch.layers import BatchNormalization

CASES = {
    "vectors": ((6, 3), 0, (3,)),
    "images": ((4, 3, 2, 5), (0, 2, 3), (3, 1, 1)),
    "images per element": ((4, 3, 2, 2), 0, (3, 2, 2)),
}
every_case = pytest.mark.parametrize(("shape", "axes", "view"), CASES.values(), ids=CASES.keys())
"""Of what shape x is, along which axes the statistics are taken, and how gamma and beta stand beside x."""


def by_the_book(x, gamma, beta, mean, var, view):
    gamma, beta, mean, var = (np.reshape(values, view) for values in (gamma, beta, mean, var))
    return gamma * (x - mean) / np.sqrt(var + 10e-7) + beta


@every_case
def test_training(make, dtype, shape, axes, view):
    features = math.prod(view)
    x, gamma, beta = draw(*shape) * 3 + 1, draw(features), draw(features, seed=1)
    layer = BatchNormalization(make.array(gamma, dtype), make.array(beta, dtype), 0.75)
    mean, var = x.mean(axis=axes).ravel(), x.var(axis=axes).ravel()
    with make.unchanged(given := make.array(x, dtype)):
        found = layer.forward(given)
    rtol = 1e-4 if dtype == "float32" else None
    make.check(found, by_the_book(x, gamma, beta, mean, var, view), dtype, rtol=rtol)
    for weight in (0.25, 1 - 0.75**2):
        make.check(layer.running_mean, weight * mean, dtype)
        make.check(layer.running_var, weight * var, dtype)
        layer.forward(given)
    assert (layer.input_shape, layer.batch_size) == (shape, shape[0])


@every_case
def test_in_use_the_running_statistics_count(make, dtype, shape, axes, view):
    features = math.prod(view)
    x, gamma, beta, mean = draw(*shape), *(draw(features, seed=seed) for seed in range(3))
    var = np.linspace(0.01, 2.0, features)
    arrays = [make.array(values, dtype) for values in (gamma, beta, mean, var)]
    layer = BatchNormalization(*arrays[:2], running_mean=arrays[2], running_var=arrays[3])
    with make.unchanged(*arrays):
        found = layer.forward(make.array(x, dtype), train_flg=False)
    make.check(found, by_the_book(x, gamma, beta, mean, var, view), dtype)
    assert layer.running_mean is arrays[2]


@every_case
@pytest.mark.parametrize("train", [True, False])
def test_backward(make, shape, axes, view, train):
    features = math.prod(view)
    x, gamma, beta, dout = draw(*shape), draw(features), draw(features, seed=1), draw(*shape, seed=2)
    running = draw(features, seed=3), np.full(features, 0.7)

    def forward(x, gamma, beta):
        return BatchNormalization(gamma, beta, 0.9, *running).forward(x, train)

    on_device = [make.array(values) for values in (gamma, beta, *running)]
    layer = BatchNormalization(*on_device[:2], 0.9, *on_device[2:])
    layer.forward(make.array(x), train)
    with make.unchanged(given := make.array(dout)):
        dx = layer.backward(given)
    slopes = (
        slope_at(lambda v: forward(v, gamma, beta), x, dout),
        slope_at(lambda v: forward(x, v, beta), gamma, dout),
        slope_at(lambda v: forward(x, gamma, v), beta, dout),
    )
    for found, right in zip((dx, layer.dgamma, layer.dbeta), slopes, strict=True):
        make.check(found, right, "float64", rtol=1e-7)


def test_a_batch_of_one(make):
    """Every value is its own mean."""
    gamma, beta, dout = draw(3), draw(3, seed=1), draw(1, 3, seed=2)
    layer = BatchNormalization(make.array(gamma), make.array(beta))
    make.check(layer.forward(make.array(draw(1, 3))), beta[None], "float64")
    make.check(layer.running_mean, 0.1 * draw(1, 3)[0], "float64")
    make.check(layer.running_var, [0.0, 0.0, 0.0], "float64")
    make.check(layer.backward(make.array(dout)), np.zeros((1, 3)), "float64")
    make.check(layer.dgamma, np.zeros(3), "float64")
    make.check(layer.dbeta, dout[0], "float64")


def test_half_precision_keeps_its_dtype_and_a_wide_variance(make):
    if not make.has("float16"):
        pytest.skip("no float16")
    x = draw(50, 2) * 1000
    layer = BatchNormalization(make.array([1.0, 1.0], "float16"), make.array([0.0, 0.0], "float16"))
    expected = by_the_book(x, [1.0, 1.0], [0.0, 0.0], x.mean(axis=0), x.var(axis=0), (2,))
    make.check(layer.forward(make.array(x, "float16")), expected, "float16", rtol=2e-3)
    make.check(layer.running_var, 0.1 * x.var(axis=0), "float32", rtol=2e-3)  # float16 ends at 65504
    make.check_kind(layer.backward(make.array(np.ones((50, 2)), "float16")), (50, 2), "float16")
    make.check_kind(layer.dgamma, (2,), "float16")
    make.check_kind(layer.forward(make.array(x, "float16"), False), (50, 2), "float16")


def test_a_gamma_of_another_size_is_refused(make):
    layer = BatchNormalization(make.array(np.ones(4)), make.array(np.zeros(4)))
    for shape in [(5, 3), (5, 3, 2, 2)]:
        with pytest.raises(ShapeError, match="C=3"):
            layer.forward(make.array(draw(*shape)))
