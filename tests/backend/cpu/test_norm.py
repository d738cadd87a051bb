"""Batch normalisation on NumPy: close to float64, and at least as close as the portable functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.cpu import (
    Array,
    channels_last,
    draw,
    everywhere_else,
    is_channels_last,
    readonly,
    unchanged,
)
from xpcnn import ops
from xpcnn.backend.cpu import blocking as grid
from xpcnn.backend.cpu import norm as kernels
from xpcnn.ops import norm

SHAPES = {
    "images": (4, 3, 5, 7),
    "many channels": (3, 1500, 2, 2),
    "one channel": (6, 1, 5, 5),
    "features": (37, 5),
    "sequences": (5, 3, 11),
    "one image": (1, 6, 13, 11),
    "two values": (2, 3),
}
FAR = {"near 0": 0.3, "far": 30.0, "some far": np.array([0.0, 50.0])}
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}
EPS = 1e-3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_LEAST", 1)
    monkeypatch.setattr(grid, "_ROW", 8)
    monkeypatch.setattr(grid, "_RUN", 3)
    monkeypatch.setattr(grid, "_BLOCK_BYTES", 600)


class Numbers:
    """Inputs for a shape, which refuse to be written to."""

    def __init__(self, shape: tuple[int, ...], dtype: str, far: Any = 0.3) -> None:
        c = shape[1]
        offsets = np.resize(far, c).reshape(-1, *[1] * (len(shape) - 2))
        self.x = channels_last((draw(*shape) + offsets).astype(dtype))
        self.dy = channels_last(draw(*shape, dtype=dtype, seed=1))
        self.weight = readonly(draw(c, dtype=dtype, seed=2))
        self.bias = readonly(draw(c, dtype=dtype, seed=3))
        self.mean = readonly((draw(c, seed=4) / 9 + np.resize(far, c)).astype(dtype))
        self.var = readonly((0.5 + draw(c, seed=5) ** 2).astype(dtype))

    @property
    def arrays(self) -> tuple[Array, ...]:
        return self.x, self.dy, self.weight, self.bias, self.mean, self.var


def check(got: Array, expected: Array, dtype: str, slack: float = 1.0) -> None:
    assert got.dtype == dtype
    assert got.shape == expected.shape
    tolerance = slack * TOLERANCE[dtype] * max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
every_distance = pytest.mark.parametrize("far", FAR.values(), ids=FAR.keys())


@every_distance
@every_shape
def test_by_batch(shape: tuple[int, ...], far: Any, dtype: str) -> None:
    n = Numbers(shape, dtype, far)
    with unchanged(*n.arrays):
        y, mean, inverse_std, new_mean, new_var = kernels.batch_norm_train(
            n.x, n.weight, n.bias, n.mean, n.var, 0.3, EPS
        )
    true_mean, true_var, unbiased = oracles.batch_statistics(n.x)
    size = 1 + np.max(far)  # what a rounding of x or of its mean is, against the deviation
    check(mean, true_mean, dtype)
    check(inverse_std, 1 / np.sqrt(true_var + EPS), dtype, size)
    check(new_mean, 0.7 * n.mean.astype(np.float64) + 0.3 * true_mean, dtype)
    check(new_var, 0.7 * n.var.astype(np.float64) + 0.3 * unbiased, dtype, size)
    check(y, oracles.batch_norm(n.x, n.weight, n.bias, true_mean, true_var, EPS), dtype, size)
    assert is_channels_last(y)
    assert not np.shares_memory(y, n.x)


@every_distance
@every_shape
def test_by_running(shape: tuple[int, ...], far: Any, dtype: str) -> None:
    n = Numbers(shape, dtype, far)
    with unchanged(*n.arrays):
        y, mean, inverse_std = kernels.batch_norm_inference(n.x, n.weight, n.bias, n.mean, n.var, EPS)
    check(y, oracles.batch_norm(n.x, n.weight, n.bias, n.mean, n.var, EPS), dtype, 1 + np.max(far))
    check(mean, n.mean, dtype)
    check(inverse_std, 1 / np.sqrt(n.var.astype(np.float64) + EPS), dtype)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("parameters", [True, False], ids=["parameters", "none"])
@every_distance
@every_shape
def test_gradients(shape: tuple[int, ...], far: Any, parameters: bool, train: bool, dtype: str) -> None:
    n = Numbers(shape, dtype, far)
    weight = n.weight if parameters else None
    mean, var, _ = oracles.batch_statistics(n.x)
    statistics = readonly(mean.astype(dtype)), readonly((1 / np.sqrt(var + EPS)).astype(dtype))
    with unchanged(*n.arrays):
        got = kernels.batch_norm_gradients(n.dy, n.x, weight, *statistics, train)
    wide = [None if a is None else a.astype(np.float64) for a in (n.dy, n.x, weight, *statistics)]
    expected = norm.batch_norm_gradients.portable(*wide, train)
    for array, value in zip(got, expected, strict=True):
        check(array, value, dtype, 4 * (1 + np.max(far)))
    assert is_channels_last(got[0])


def test_without_parameters(dtype: str) -> None:
    n = Numbers((4, 3, 5, 7), dtype)
    y, *_, new_mean, new_var = kernels.batch_norm_train(n.x, None, None, None, None, 0.1, EPS)
    assert new_mean is None
    assert new_var is None
    mean, var, _ = oracles.batch_statistics(n.x)
    check(y, oracles.batch_norm(n.x, np.ones(3), np.zeros(3), mean, var, EPS), dtype)
    y, *_ = kernels.batch_norm_inference(n.x, n.weight, None, n.mean, n.var, EPS)
    check(y, oracles.batch_norm(n.x, n.weight, np.zeros(3), n.mean, n.var, EPS), dtype)


@pytest.mark.parametrize("shape", [(50, 6, 45, 45), (32, 200, 8, 8)], ids=["few channels", "many channels"])
@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 4.9, 5.1, 10.0, 1000.0])
def test_as_accurate_as_the_portable_functions(
    distance: float, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the sizes of real batches, with real blocks, in float32."""
    monkeypatch.undo()
    channels = shape[1]
    x = channels_last((draw(*shape) + distance).astype("float32"))
    dy = channels_last(draw(*shape, dtype="float32", seed=1))
    weight, bias = draw(channels, dtype="float32", seed=2), draw(channels, dtype="float32", seed=3)

    def errors(by_batch: Any, gradients: Any) -> list[float]:
        y, mean, inverse_std, *_ = by_batch(x, weight, bias, None, None, 0.1, EPS)
        got = [y, mean, inverse_std, *gradients(dy, x, weight, mean, inverse_std, True)]
        return [
            float(np.abs(array - value).max() / np.abs(value).max())
            for array, value in zip(got, expected, strict=True)
        ]

    wide = [array.astype(np.float64) for array in (x, weight, bias, dy)]
    y, mean, inverse_std, *_ = norm.batch_norm_train.portable(*wide[:3], None, None, 0.1, EPS)
    expected = [y, mean, inverse_std]
    expected += norm.batch_norm_gradients.portable(wide[3], wide[0], wide[1], mean, inverse_std, True)
    portable = errors(norm.batch_norm_train.portable, norm.batch_norm_gradients.portable)
    for own, other in zip(errors(norm.batch_norm_train, norm.batch_norm_gradients), portable, strict=True):
        assert own <= max(1.1 * other, 1.5e-6)


@pytest.mark.parametrize("far", FAR.values(), ids=FAR.keys())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_with_a_relu_behind(shape: tuple[int, ...], dtype: str, far: Any) -> None:
    """The bits are those of the kernels one after the other."""
    n = Numbers(shape, dtype, far)
    table = kernels.KERNELS
    y, *statistics = table["batch_norm_relu_by_batch"](n.x, n.weight, n.bias, n.mean, n.var, 0.1, EPS)
    alone, *expected = kernels.batch_norm_train(n.x, n.weight, n.bias, n.mean, n.var, 0.1, EPS)
    running, *_ = table["batch_norm_relu_by_running"](n.x, n.weight, n.bias, n.mean, n.var, EPS)
    alone_running, *_ = kernels.batch_norm_inference(n.x, n.weight, n.bias, n.mean, n.var, EPS)
    pairs = [(y, np.maximum(alone, 0)), (running, np.maximum(alone_running, 0))]
    pairs += zip(statistics, expected, strict=True)
    for train in (True, False):
        given = (n.x, n.weight, *statistics[:2], train)
        with unchanged(n.dy, y):
            got = table["batch_norm_relu_gradients"](n.dy, *given, y)
        kept = channels_last(np.where(y > 0, n.dy, 0).astype(dtype))
        pairs += zip(got, kernels.batch_norm_gradients(kept, *given), strict=True)
    for array, value in pairs:
        np.testing.assert_array_equal(array, value)
    if len(shape) > 2 and shape[1] > 1:
        elsewhere = np.ascontiguousarray(y)
        assert table["batch_norm_relu_gradients"](n.dy, *given, elsewhere) is NotImplemented


def test_sums_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block has 256 rows here, in runs whose sums are added up in float64: 7e-6 without."""
    monkeypatch.undo()
    x = channels_last((3 + draw(2, 1024, 16, 16)).astype("float32"))
    _, mean, inverse_std, *_ = kernels.batch_norm_train(x, None, None, None, None, 0.1, 0.0)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 2, 3)), rtol=2e-7)
    np.testing.assert_allclose(inverse_std, 1 / wide.std((0, 2, 3)), rtol=2e-6)


def test_pixels_that_mislead(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels that are looked at beforehand are 0; all others are far from it, and near each other."""
    monkeypatch.setattr(kernels, "_SOME", 16)
    matrix = 1000 + draw(1600, 3)
    matrix[::100] = 0
    x = matrix.reshape(4, 20, 20, 3).astype(dtype).transpose(0, 3, 1, 2)
    matrix = matrix.astype(dtype).astype(np.float64)
    _, mean, inverse_std, *_ = kernels.batch_norm_train(x, None, None, None, None, 0.1, 0.0)
    np.testing.assert_allclose(mean, matrix.mean(0), rtol=1e-6)
    np.testing.assert_allclose(inverse_std, 1 / matrix.std(0), rtol=1e-6)


def test_numbers_whose_squares_overflow() -> None:
    x = channels_last((1e20 + 1e16 * draw(4, 3, 5, 7)).astype("float32"))
    y, *_ = kernels.batch_norm_train(x, None, None, None, None, 0.1, 0.0)
    mean, var, _ = oracles.batch_statistics(x)
    np.testing.assert_allclose(y, oracles.batch_norm(x, np.ones(3), np.zeros(3), mean, var, 0.0), atol=1e-3)


def test_a_constant_channel(dtype: str) -> None:
    x = Numbers((4, 3, 5, 7), dtype).x.copy()
    x[:, 0], x[:, 1] = 1000.1, 0
    bias = draw(3, dtype=dtype)
    y, mean, inverse_std, *_ = kernels.batch_norm_train(channels_last(x), None, bias, None, None, 0.1, EPS)
    np.testing.assert_allclose(y[:, :2], np.broadcast_to(bias[:2, None, None], y[:, :2].shape), atol=1e-6)
    np.testing.assert_allclose(mean[:2], x[0, :2, 0, 0])
    np.testing.assert_allclose(inverse_std[:2], EPS**-0.5, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(value: float, dtype: str) -> None:
    """It stays in its channel, and makes of it what the portable function does."""
    n = Numbers((4, 3, 5, 7), dtype)
    x = n.x.copy()
    x[1, 1, 2, 3] = value
    x = channels_last(x)
    with np.errstate(invalid="ignore"):
        got = kernels.batch_norm_train(x, n.weight, n.bias, n.mean, n.var, 0.1, EPS)
        expected = norm.batch_norm_train.portable(x, n.weight, n.bias, n.mean, n.var, 0.1, EPS)
        for array, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(array, other, rtol=1e-3, atol=1e-5)
        got = kernels.batch_norm_gradients(n.dy, x, n.weight, *got[1:3], True)
        expected = norm.batch_norm_gradients.portable(n.dy, x, n.weight, *expected[1:3], True)
        for array, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(array, other, rtol=1e-3, atol=1e-4)


def test_running_statistics_without_variance() -> None:
    x = channels_last(np.array([[[[1.0, -2.0, 0.5]]]]))
    with np.errstate(divide="ignore", invalid="ignore"):
        for mean in (0.0, 0.5):
            arguments = (x, None, None, np.array([mean]), np.zeros(1), 0.0)
            y, *_ = kernels.batch_norm_inference(*arguments)
            np.testing.assert_array_equal(y, norm.batch_norm_inference.portable(*arguments)[0])


def test_other_memory_and_dtypes(dtype: str) -> None:
    n = Numbers((4, 3, 5, 7), dtype)
    expected, ctx = ops.batch_norm(n.x, n.weight, n.bias, train=True)
    dx, _, _ = ops.batch_norm.backward(ctx, n.dy)
    for x, dy in zip(everywhere_else(n.x), everywhere_else(n.dy), strict=True):
        assert kernels.batch_norm_train(x, n.weight, n.bias, None, None, 0.1, EPS) is NotImplemented
        assert kernels.batch_norm_inference(x, None, None, n.mean, n.var, EPS) is NotImplemented
        assert kernels.batch_norm_gradients(dy, n.x, None, n.mean, n.var, True) is NotImplemented
        y, ctx = ops.batch_norm(x, n.weight, n.bias, train=True)
        np.testing.assert_allclose(y, expected, atol=1e-5)
        np.testing.assert_allclose(ops.batch_norm.backward(ctx, dy)[0], dx, atol=1e-5)
    half = n.x.astype("float16")
    assert kernels.batch_norm_train(half, None, None, None, None, 0.1, EPS) is NotImplemented
    empty = n.x[:0]
    assert kernels.batch_norm_inference(empty, None, None, n.mean, n.var, EPS) is NotImplemented
    assert ops.batch_norm(empty, None, None, n.mean, n.var)[0].shape == (0, 3, 5, 7)


def test_small_arrays_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    n = Numbers((4, 3, 5, 7), "float32")
    assert kernels.batch_norm_train(n.x, None, None, None, None, 0.1, EPS) is NotImplemented
