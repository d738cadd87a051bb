"""float16 and bfloat16: kept as they are, accumulated in float32.

All inputs are positive and sums are long, so that a result summed in half precision is off by many units in
the last place. One that is summed in float32 and rounded once is the exact sum, correctly rounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support import oracles
from xpcnn import ops

HALF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff: the relative error of rounding once."""


class Half(NamedTuple):
    make: Any
    dtype: str

    def array(self, values: Any) -> Any:
        return self.make.array(values, self.dtype)

    def draw(self, *shape: int, seed: int = 0) -> tuple[Any, np.ndarray[Any, Any]]:
        """Numbers in [0.5, 1.5): the array, and in float64 the values that the array holds."""
        array = self.array(0.5 + np.random.default_rng([seed, *shape]).random(shape))
        return array, self.values(array)

    def values(self, array: Any) -> np.ndarray[Any, Any]:
        return self.make.to_numpy(array).astype("float64")

    def check(self, y: Any, expected: Any, slack: float = 0.0, roundings: int = 1) -> None:
        """Each element is the exact value rounded once (or so many times), and `slack` absolutely."""
        expected = np.asarray(expected)
        self.make.check_kind(y, expected.shape, self.dtype)
        error = np.abs(self.values(y) - expected)
        allowed = 1.02 * roundings * HALF[self.dtype] * np.abs(expected) + slack
        excess = error / np.maximum(allowed, 1e-30)
        assert excess.max() <= 1, f"{excess.max():.1f} times the error allowed"


@pytest.fixture(params=HALF)
def half(request: pytest.FixtureRequest, make: Any) -> Half:
    if not make.has(request.param):
        pytest.skip(f"{make.backend} has no {request.param}")
    return Half(make, request.param)


@pytest.mark.parametrize("algorithm", ["loop", "im2col", "as_strided", "auto"])
def test_conv2d(half: Half, algorithm: str) -> None:
    (x, xv), (w, wv) = half.draw(4, 32, 8, 8), half.draw(2, 32, 5, 5, seed=1)
    (b, bv), (dy, dyv) = half.draw(2, seed=2), half.draw(4, 2, 4, 4, seed=3)
    y, ctx = ops.conv2d(x, w, b, algorithm=algorithm)
    dx, dw, db = ops.conv2d.backward(ctx, dy)
    half.check(y, oracles.conv2d(xv, wv, bv))
    expected = oracles.conv2d_gradients(xv, wv, dyv)
    half.check(dx, expected[0])
    half.check(dw, expected[1])
    half.check(db, expected[2])


def test_conv2d_with_many_outputs(half: Half) -> None:
    """dx sums over the outputs, and tiles of the batch must not be summed in half precision either."""
    (x, xv), (w, wv) = half.draw(2, 1, 3, 3), half.draw(300, 1, 2, 2, seed=1)
    (dy, dyv) = half.draw(2, 300, 2, 2, seed=2)
    _, ctx = ops.conv2d(x, w)
    dx, dw, _ = ops.conv2d.backward(ctx, dy)
    expected = oracles.conv2d_gradients(xv, wv, dyv)
    half.check(dx, expected[0])
    half.check(dw, expected[1])


def test_conv_transpose2d(half: Half) -> None:
    (x, xv), (w, wv) = half.draw(2, 64, 4, 4), half.draw(64, 2, 3, 3, seed=1)
    (b, bv), (dy, dyv) = half.draw(2, seed=2), half.draw(2, 2, 8, 8, seed=3)
    y, ctx = ops.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1)
    dx, dw, db = ops.conv_transpose2d.backward(ctx, dy)
    options = {"stride": (2, 2), "padding": (1, 1)}
    half.check(y, oracles.conv_transpose2d(xv, wv, bv, **options, output_padding=(1, 1)))
    for got, expected in zip(
        (dx, dw, db), oracles.conv_transpose2d_gradients(xv, wv, dyv, **options), strict=True
    ):
        half.check(got, expected)


def test_linear(half: Half) -> None:
    (x, xv), (w, wv) = half.draw(40, 500), half.draw(6, 500, seed=1)
    (b, bv), (dy, dyv) = half.draw(6, seed=2), half.draw(40, 6, seed=3)
    y, ctx = ops.linear(x, w, b)
    dx, dw, db = ops.linear.backward(ctx, dy)
    half.check(y, xv @ wv.T + bv)
    half.check(dx, dyv @ wv)
    half.check(dw, dyv.T @ xv)
    half.check(db, dyv.sum(axis=0))


def test_linear_sums_past_2048(half: Half) -> None:
    """In float16, 2048 + 1 is 2048: a running sum of ones stops there."""
    y, _ = ops.linear(half.array(np.ones((1, 4096))), half.array(np.ones((1, 4096))))
    half.check(y, [[4096.0]])


@pytest.mark.parametrize("op", [ops.avg_pool2d, ops.adaptive_avg_pool2d], ids=lambda f: f.__name__)
def test_average_of_a_large_window(half: Half, op: Any) -> None:
    """Whose sum, 102400, is beyond float16."""
    size = 32 if op is ops.avg_pool2d else 1
    y, _ = op(half.array(np.full((1, 2, 32, 32), 100.0)), size)
    half.check(y, np.full((1, 2, 1, 1), 100.0))
    x, xv = half.draw(2, 2, 32, 32)
    y, ctx = op(x, size)
    half.check(y, xv.mean(axis=(2, 3), keepdims=True))
    dy, dyv = half.draw(2, 2, 1, 1, seed=1)
    backward = ops.avg_pool2d.backward if op is ops.avg_pool2d else ops.adaptive_avg_pool2d.backward
    half.check(backward(ctx, dy), np.broadcast_to(dyv / 1024, xv.shape), slack=2.0**-25)


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
def test_overlapping_gradients(half: Half, op: str) -> None:
    """49 windows give their gradients to one pixel."""
    values = np.zeros((1, 1, 13, 13))
    values[0, 0, 6, 6] = 1
    _, ctx = getattr(ops, op)(half.array(values), 7, 1)
    dy, dyv = half.draw(1, 1, 7, 7)
    dx = getattr(ops, op).backward(ctx, dy)
    oracle = {
        "max_pool2d": lambda: oracles.max_pool2d_gradients(values, dyv, (7, 7), (1, 1)),
        "avg_pool2d": lambda: oracles.avg_pool2d_gradients(values.shape, dyv, (7, 7), (1, 1)),
    }[op]()
    half.check(dx, oracle)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "softmax", "log_softmax"])
def test_activations(half: Half, name: str) -> None:
    x, xv = half.draw(3, 400)
    dy, dyv = half.draw(3, 400, seed=1)
    y, ctx = getattr(ops, name)(x)
    # Nothing is summed but softmax's denominator: each step may round to half precision.
    half.check(y, getattr(oracles, name)(xv), slack=2.0**-24, roundings=4)
    dx = getattr(ops, name).backward(ctx, dy)
    # What backward keeps of the forward is rounded: for log_softmax to some units of |y| = 6, which come back
    # as relative errors of p.
    expected = getattr(oracles, name + "_gradients")(xv, dyv)
    size = float(np.abs(dyv if name == "log_softmax" else expected).max())
    half.check(dx, expected, slack=16 * HALF[half.dtype] * size + 2.0**-24)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gates(half: Half, name: str) -> None:
    """Computed in float32 throughout and rounded once, the left tail too."""
    x = half.array(np.linspace(-6, 6, 301))
    (dy, dyv), xv = half.draw(301, seed=1), half.values(x)
    y, ctx = getattr(ops, name)(x)
    half.check(y, getattr(oracles, name)(xv), slack=2.0**-25)
    half.check(
        getattr(ops, name).backward(ctx, dy), getattr(oracles, name + "_gradients")(xv, dyv), slack=1e-6
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_sums_past_2048(half: Half, name: str, axis: int) -> None:
    """5000 equal entries; float16 counting to 5000 in ones would stop at 2048, bfloat16 at 256."""
    shape = (5000, 2) if axis == 0 else (2, 5000)
    dy, dyv = half.draw(*shape)
    y, ctx = getattr(ops, name)(half.array(np.ones(shape)), axis=axis)
    expected = np.full(shape, 1 / 5000 if name == "softmax" else -np.log(5000))
    half.check(y, expected, slack=2.0**-24, roundings=4)
    dx = getattr(ops, name).backward(ctx, dy)
    # Both gradients subtract the mean of dy, about 1, with the relative error that y was rounded to.
    size = 1 / 5000 if name == "softmax" else 1.0
    exact = (dyv - dyv.mean(axis=axis, keepdims=True)) * size
    half.check(dx, exact, slack=16 * HALF[half.dtype] * size + 2.0**-24)


def test_dropout(half: Half) -> None:
    x, xv = half.draw(50, 50)
    y, ctx = ops.dropout(x, 0.3, 1)
    kept = half.values(y) != 0
    half.check(y, kept * xv / 0.7, roundings=2)
    half.check(ops.dropout.backward(ctx, x), kept * xv / 0.7, roundings=2)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / 2500)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_batch_norm(half: Half, train: bool) -> None:
    """Statistics over 2000 values whose sum of squares is long past the last unit of half precision."""
    x, xv = half.draw(20, 2, 10, 10)
    (w, wv), (b, bv) = half.draw(2, seed=1), half.draw(2, seed=2)
    (mean, meanv), (var, varv) = half.draw(2, seed=3), half.draw(2, seed=4)
    dy, dyv = half.draw(20, 2, 10, 10, seed=5)
    y, ctx = ops.batch_norm(x, w, b, mean, var, train=train)
    used = (meanv, varv)
    if train:
        batch_mean, batch_var, unbiased = oracles.batch_statistics(xv)
        half.check(ctx.running_mean, 0.9 * meanv + 0.1 * batch_mean)
        half.check(ctx.running_var, 0.9 * varv + 0.1 * unbiased)
        used = (batch_mean, batch_var)
    half.check(y, oracles.batch_norm(xv, wv, bv, *used), slack=1e-5)
    dx, dw, db = ops.batch_norm.backward(ctx, dy)
    expected = oracles.batch_norm_gradients(xv, wv, dyv, *used, train)
    half.check(dx, expected[0], slack=1e-5)
    half.check(dw, expected[1], slack=1e-3)
    half.check(db, expected[2])


def test_layer_norm(half: Half) -> None:
    """Parts of 2000 values, and gradients of the parameters that sum over 300 samples."""
    x, xv = half.draw(4, 2000)
    (w, wv), (b, bv) = half.draw(2000, seed=1), half.draw(2000, seed=2)
    y, ctx = ops.layer_norm(x, 2000, w, b)
    half.check(y, oracles.layer_norm(xv, 1, wv, bv), slack=1e-5)
    dy, dyv = half.draw(4, 2000, seed=3)
    half.check(
        ops.layer_norm.backward(ctx, dy)[0], oracles.layer_norm_gradients(xv, 1, wv, dyv)[0], slack=1e-5
    )
    (x, xv), (w, wv), (dy, dyv) = half.draw(300, 4), half.draw(4, seed=1), half.draw(300, 4, seed=2)
    _, dw, db = ops.layer_norm.backward(ops.layer_norm(x, 4, w, w)[1], dy)
    expected = oracles.layer_norm_gradients(xv, 1, wv, dyv)
    half.check(dw, expected[1], slack=1e-3)
    half.check(db, expected[2])


def test_group_norm(half: Half) -> None:
    x, xv = half.draw(20, 4, 10, 10)
    (w, wv), (b, bv) = half.draw(4, seed=1), half.draw(4, seed=2)
    dy, dyv = half.draw(20, 4, 10, 10, seed=5)
    y, ctx = ops.group_norm(x, 2, w, b)
    half.check(y, oracles.group_norm(xv, 2, wv, bv), slack=1e-5)
    dx, dw, db = ops.group_norm.backward(ctx, dy)
    expected = oracles.group_norm_gradients(xv, 2, wv, dyv)
    half.check(dx, expected[0], slack=1e-5)
    half.check(dw, expected[1], slack=1e-3)
    half.check(db, expected[2])


def test_local_response_norm(half: Half) -> None:
    """A window of 100 squares of up to 300², each beyond float16."""
    x, _ = half.draw(2, 200, 1, 2)
    x = x * 200
    xv = half.values(x)
    dy, dyv = half.draw(2, 200, 1, 2, seed=1)
    y, ctx = ops.local_response_norm(x, 100, alpha=0.1)
    half.check(y, oracles.local_response_norm(xv, 100, alpha=0.1), slack=2.0**-24)
    expected = oracles.local_response_norm_gradients(xv, dyv, 100, alpha=0.1)
    half.check(ops.local_response_norm.backward(ctx, dy), expected, slack=1e-6)


def test_cross_entropy(half: Half) -> None:
    (x, xv), labels = half.draw(1000, 10), np.arange(1000) % 10
    loss, ctx = ops.softmax_cross_entropy(x, half.make.array(labels, "int64"))
    half.check(loss, oracles.softmax_cross_entropy(xv, labels))
    expected = oracles.softmax_cross_entropy_gradients(xv, labels)
    half.check(ops.softmax_cross_entropy.backward(ctx), expected, slack=2.0**-24)


def test_mean_squared_error(half: Half) -> None:
    """300² is beyond float16; the mean is not."""
    y_values = np.zeros(1000)
    y_values[:10] = 300
    y, target = half.array(y_values), half.array(np.zeros(1000))
    loss, ctx = ops.mean_squared_error(y, target)
    half.check(loss, oracles.mean_squared_error(half.values(y), np.zeros(1000)))
    expected = oracles.mean_squared_error_gradients(half.values(y), np.zeros(1000))
    half.check(ops.mean_squared_error.backward(ctx), expected)
