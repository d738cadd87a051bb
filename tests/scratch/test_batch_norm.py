"""The book's batch normalisation: its own conventions, and statistics per channel."""

import numpy as np
import pytest

from tests.support.scratch import draw, slope_at
from xpcnn.errors import ShapeError
from xpcnn.scratch.layers import BatchNormalization

EPS = 10e-7


def by_the_book(x, gamma, beta):
    """(y, mean, biased variance) over the batch, for features (N, D): the formula as it is printed."""
    mean = x.mean(axis=0)
    var = ((x - mean) ** 2).mean(axis=0)
    return gamma * (x - mean) / np.sqrt(var + EPS) + beta, mean, var


def rows(x, features):
    """Images (N, C, H, W) as rows: (N·H·W, C), which is what "per channel" means, or (N, C·H·W)."""
    if x.ndim == 2 or features != x.shape[1]:
        return x.reshape(-1, features)
    return x.transpose(0, 2, 3, 1).reshape(-1, features)


def images(y, shape, features):
    if len(shape) == 2 or features != shape[1]:
        return y.reshape(shape)
    return y.reshape(shape[0], *shape[2:], features).transpose(0, 3, 1, 2)


CASES = {"vectors": ((6, 3), 3), "images": ((4, 3, 2, 5), 3), "images per element": ((4, 3, 2, 2), 12)}
every_case = pytest.mark.parametrize(("shape", "features"), CASES.values(), ids=CASES.keys())


@every_case
def test_training(make, dtype, shape, features):
    x, gamma, beta = draw(*shape) * 3 + 1, draw(features), draw(features, seed=1)
    layer = BatchNormalization(make.array(gamma, dtype), make.array(beta, dtype))
    y, mean, var = by_the_book(rows(x, features), gamma, beta)
    with make.unchanged(given := make.array(x, dtype)):
        found = layer.forward(given)
    make.check(found, images(y, shape, features), dtype, rtol=1e-4 if dtype == "float32" else None)
    for weight in (0.1, 0.19):
        make.check(layer.running_mean, weight * mean, dtype)
        make.check(layer.running_var, weight * var, dtype)
        layer.forward(given)
    assert (layer.input_shape, layer.batch_size) == (shape, shape[0])


@every_case
def test_in_use_the_running_statistics_count(make, dtype, shape, features):
    x, gamma, beta, mean = draw(*shape), *(draw(features, seed=seed) for seed in range(3))
    var = np.linspace(0.01, 2.0, features)
    arrays = [make.array(values, dtype) for values in (gamma, beta, mean, var)]
    layer = BatchNormalization(*arrays[:2], running_mean=arrays[2], running_var=arrays[3])
    expected = gamma * (rows(x, features) - mean) / np.sqrt(var + EPS) + beta
    with make.unchanged(*arrays):
        found = layer.forward(make.array(x, dtype), train_flg=False)
    make.check(found, images(expected, shape, features), dtype)
    assert layer.running_mean is arrays[2]


def test_momentum_is_the_weight_of_the_old(make):
    x, old = draw(5, 2), make.array([1.0, 2.0])
    layer = BatchNormalization(make.array([1.0, 1.0]), make.array([0.0, 0.0]), 0.75, old, old)
    layer.forward(make.array(x))
    make.check(layer.running_mean, 0.75 * np.array([1.0, 2.0]) + 0.25 * x.mean(axis=0), "float64")
    make.check(layer.running_var, 0.75 * np.array([1.0, 2.0]) + 0.25 * x.var(axis=0), "float64")


@every_case
@pytest.mark.parametrize("train", [True, False])
def test_backward(make, shape, features, train):
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
    """Its script checks gradients with one sample: every value is its own mean."""
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
    expected, _, var = by_the_book(x, 1.0, 0.0)
    make.check(layer.forward(make.array(x, "float16")), expected, "float16", rtol=2e-3)
    make.check(layer.running_var, 0.1 * var, "float32", rtol=2e-3)  # float16 ends at 65504
    make.check_kind(layer.backward(make.array(np.ones((50, 2)), "float16")), (50, 2), "float16")
    make.check_kind(layer.dgamma, (2,), "float16")
    make.check_kind(layer.forward(make.array(x, "float16"), False), (50, 2), "float16")


def test_a_gamma_of_another_size_is_refused(make):
    layer = BatchNormalization(make.array(np.ones(4)), make.array(np.zeros(4)))
    for shape in [(5, 3), (5, 3, 2, 2)]:
        with pytest.raises(ShapeError, match="C=3"):
            layer.forward(make.array(draw(*shape)))
