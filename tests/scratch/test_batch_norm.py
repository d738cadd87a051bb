"""The book's batch normalisation: its own conventions, and statistics per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.scratch import draw, slope_at
from xpcnn.errors import ShapeError
from xpcnn.scratch.layers import BatchNormalization

EPS = 10e-7


def by_the_book(x: Any, gamma: Any, beta: Any) -> tuple[Any, Any, Any]:
    """(y, mean, biased variance) over the batch, for features (N, D): the formula as it is printed."""
    mean = x.mean(axis=0)
    var = ((x - mean) ** 2).mean(axis=0)
    return gamma * (x - mean) / np.sqrt(var + EPS) + beta, mean, var


def as_rows(x: Any) -> Any:
    """Images (N, C, H, W) as rows (N·H·W, C): what "per channel" means."""
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def test_vectors_in_training(make: Any, dtype: str) -> None:
    x, gamma, beta = draw(6, 4) * 3 + 1, draw(4), draw(4, seed=1)
    layer = BatchNormalization(make.array(gamma, dtype), make.array(beta, dtype))
    y, mean, var = by_the_book(x, gamma, beta)
    with make.unchanged(given := make.array(x, dtype)):
        make.check(layer.forward(given), y, dtype, rtol=1e-4 if dtype == "float32" else None)
    make.check(layer.running_mean, 0.1 * mean, dtype)
    make.check(layer.running_var, 0.1 * var, dtype)
    layer.forward(given)
    make.check(layer.running_mean, 0.19 * mean, dtype)
    make.check(layer.running_var, 0.19 * var, dtype)
    assert (layer.input_shape, layer.batch_size) == ((6, 4), 6)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_in_use_the_running_statistics_are_taken(make: Any, dtype: str, shape: tuple[int, ...]) -> None:
    x, gamma, beta, mean = draw(*shape), draw(3), draw(3, seed=1), draw(3, seed=2)
    var = np.array([0.5, 2.0, 0.01])
    arrays = [make.array(values, dtype) for values in (gamma, beta, mean, var)]
    layer = BatchNormalization(*arrays[:2], running_mean=arrays[2], running_var=arrays[3])
    across = (3,) + (1,) * (len(shape) - 2)
    gamma, beta, mean, var = (v.reshape(across) for v in (gamma, beta, mean, var))
    expected = gamma * (x - mean) / np.sqrt(var + EPS) + beta
    with make.unchanged(*arrays):
        make.check(layer.forward(make.array(x, dtype), train_flg=False), expected, dtype)
    assert layer.running_mean is arrays[2]


def test_momentum_is_the_weight_of_the_old(make: Any) -> None:
    x = draw(5, 2)
    old = make.array([1.0, 2.0])
    layer = BatchNormalization(make.array([1.0, 1.0]), make.array([0.0, 0.0]), 0.75, old, old)
    layer.forward(make.array(x))
    make.check(layer.running_mean, 0.75 * np.array([1.0, 2.0]) + 0.25 * x.mean(axis=0), "float64")
    make.check(layer.running_var, 0.75 * np.array([1.0, 2.0]) + 0.25 * x.var(axis=0), "float64")


CASES = {
    "vectors": ((5, 3), 3, True),
    "images": ((3, 2, 2, 3), 2, True),
    "images per element": ((4, 2, 2, 3), 12, True),
    "vectors in use": ((5, 3), 3, False),
    "images in use": ((3, 2, 2, 3), 2, False),
}


@pytest.mark.parametrize(("shape", "features", "train"), CASES.values(), ids=CASES.keys())
def test_backward(make: Any, shape: tuple[int, ...], features: int, train: bool) -> None:
    x, gamma, beta, dout = draw(*shape), draw(features), draw(features, seed=1), draw(*shape, seed=2)
    running = draw(features, seed=3), np.full(features, 0.7)

    def forward(x: Any, gamma: Any, beta: Any) -> Any:
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


def test_images_have_statistics_per_channel(make: Any, dtype: str) -> None:
    """Mended: the book has one mean for every pixel position, so a shifted image is normalised otherwise."""
    x, gamma, beta = draw(4, 3, 2, 5) + 1, draw(3), draw(3, seed=1)
    y, mean, var = by_the_book(as_rows(x), gamma, beta)
    layer = BatchNormalization(make.array(gamma, dtype), make.array(beta, dtype))
    found = layer.forward(make.array(x, dtype))
    expected = y.reshape(4, 2, 5, 3).transpose(0, 3, 1, 2)
    make.check(found, expected, dtype, rtol=1e-4 if dtype == "float32" else None)
    make.check(layer.running_mean, 0.1 * mean, dtype)
    make.check(layer.running_var, 0.1 * var, dtype)
    right = oracles.batch_norm(x, gamma, beta, *oracles.batch_statistics(x)[:2], eps=EPS)
    make.check(found, right, dtype, rtol=1e-4 if dtype == "float32" else None)


def test_a_gamma_for_every_element_keeps_the_books_meaning(make: Any) -> None:
    x, gamma, beta = draw(4, 3, 2, 5), draw(30), draw(30, seed=1)
    y, mean, _ = by_the_book(x.reshape(4, 30), gamma, beta)
    layer = BatchNormalization(make.array(gamma), make.array(beta))
    make.check(layer.forward(make.array(x)), y.reshape(x.shape), "float64")
    make.check(layer.running_mean, 0.1 * mean, "float64")
    layer.forward(make.array(x), train_flg=False)
    assert layer.input_shape == x.shape


def test_a_batch_of_one(make: Any) -> None:
    """Its script checks gradients with one sample: every value is its own mean."""
    gamma, beta = draw(3), draw(3, seed=1)
    layer = BatchNormalization(make.array(gamma), make.array(beta))
    make.check(layer.forward(make.array(draw(1, 3))), beta[None], "float64")
    make.check(layer.running_mean, 0.1 * draw(1, 3)[0], "float64")
    make.check(layer.running_var, [0.0, 0.0, 0.0], "float64")
    dout = draw(1, 3, seed=2)
    make.check(layer.backward(make.array(dout)), np.zeros((1, 3)), "float64")
    make.check(layer.dgamma, np.zeros(3), "float64")
    make.check(layer.dbeta, dout[0], "float64")


def test_half_precision_keeps_its_dtype_and_a_wide_variance(make: Any) -> None:
    if not make.has("float16"):
        pytest.skip("no float16")
    x = draw(50, 2) * 1000
    gamma, beta = make.array([1.0, 1.0], "float16"), make.array([0.0, 0.0], "float16")
    layer = BatchNormalization(gamma, beta)
    expected, _, var = by_the_book(x, 1.0, 0.0)
    make.check(layer.forward(make.array(x, "float16")), expected, "float16", rtol=2e-3)
    make.check(layer.running_var, 0.1 * var, "float32", rtol=2e-3)  # float16 ends at 65504
    make.check_kind(layer.backward(make.array(np.ones((50, 2)), "float16")), (50, 2), "float16")
    make.check_kind(layer.dgamma, (2,), "float16")
    make.check_kind(layer.forward(make.array(x, "float16"), False), (50, 2), "float16")


def test_a_gamma_of_another_size_is_refused(make: Any) -> None:
    layer = BatchNormalization(make.array(np.ones(4)), make.array(np.zeros(4)))
    for shape in [(5, 3), (5, 3, 2, 2)]:
        with pytest.raises(ShapeError, match="C=3"):
            layer.forward(make.array(draw(*shape)))
