"""float16 and bfloat16: kept as they are, accumulated in float32.

All inputs are positive and sums are long, so that a result summed in half precision is off by many units in
the last place. One that is summed in float32 and rounded once is the exact sum, correctly rounded.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def draw(self, *shape: int, seed: int = 0) -> Any:
        """Numbers in [0.5, 1.5)."""
        return self.array(0.5 + np.random.default_rng([seed, *shape]).random(shape))

    def values(self, array: Any) -> np.ndarray[Any, Any]:
        """In float64, what the array holds."""
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


TRANSPOSED = {"stride": (2, 2), "padding": (1, 1)}


def layer(size: int) -> tuple[Any, Any]:
    """`layer_norm` over the last axis, and its oracle."""
    return (
        lambda x, w, b: ops.layer_norm(x, size, w, b),
        lambda x, w, b, dy: (oracles.layer_norm(x, 1, w, b), *oracles.layer_norm_gradients(x, 1, w, dy)),
    )


def conv(algorithm: str) -> Any:
    return lambda x, w, b: ops.conv2d(x, w, b, algorithm=algorithm)


def conv_oracle(x: Any, w: Any, b: Any, dy: Any) -> Any:
    return oracles.conv2d(x, w, b), *oracles.conv2d_gradients(x, w, dy)


# (op, oracle(*arrays, dy) -> (y, *gradients), backward's op, shapes, slack of each result)
Oracle = Callable[..., tuple[Any, ...]]
IMAGES, SLACK = (20, 4, 10, 10), (1e-5, 1e-5, 1e-3, 0.0)
CASES: dict[str, tuple[Any, Oracle, Any, list[tuple[int, ...]], tuple[float, ...]]] = {
    **{
        f"conv2d {name}": (conv(name), conv_oracle, ops.conv2d, [(4, 32, 8, 8), (2, 32, 5, 5), (2,)], ())
        for name in ("loop", "im2col", "as_strided", "auto")
    },
    # dx sums over the outputs, and tiles of the batch must not be summed in half precision either.
    "conv2d with many outputs": (
        conv("auto"),
        conv_oracle,
        ops.conv2d,
        [(2, 1, 3, 3), (300, 1, 2, 2), (300,)],
        (),
    ),
    "conv_transpose2d": (
        lambda x, w, b: ops.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1),
        lambda x, w, b, dy: (
            oracles.conv_transpose2d(x, w, b, **TRANSPOSED, output_padding=(1, 1)),
            *oracles.conv_transpose2d_gradients(x, w, dy, **TRANSPOSED),
        ),
        ops.conv_transpose2d,
        [(2, 64, 4, 4), (64, 2, 3, 3), (2,)],
        (),
    ),
    "linear": (
        ops.linear,
        lambda x, w, b, dy: (x @ w.T + b, dy @ w, dy.T @ x, dy.sum(axis=0)),
        ops.linear,
        [(40, 500), (6, 500), (6,)],
        (),
    ),
    "batch_norm": (
        lambda x, w, b: ops.batch_norm(x, w, b, train=True),
        lambda x, w, b, dy: (
            oracles.batch_norm(x, w, b, *oracles.batch_statistics(x)[:2]),
            *oracles.batch_norm_gradients(x, w, dy, *oracles.batch_statistics(x)[:2], True),
        ),
        ops.batch_norm,
        [IMAGES, (4,), (4,)],
        SLACK,
    ),
    # Parts of 2000 values, and gradients of the parameters that sum over 300 samples.
    "layer_norm, long": (
        *layer(2000),
        ops.layer_norm,
        [(4, 2000), (2000,), (2000,)],
        (1e-5, 1e-5, 1e-3, 0.0),
    ),
    "layer_norm, many": (*layer(4), ops.layer_norm, [(300, 4), (4,), (4,)], (1e-5, 1e-5, 1e-3, 0.0)),
    "group_norm": (
        lambda x, w, b: ops.group_norm(x, 2, w, b),
        lambda x, w, b, dy: (oracles.group_norm(x, 2, w, b), *oracles.group_norm_gradients(x, 2, w, dy)),
        ops.group_norm,
        [IMAGES, (4,), (4,)],
        SLACK,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_long_sums(half: Half, case: Any) -> None:
    op, oracle, owner, shapes, slack = case
    arrays = [half.draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    y, ctx = op(*arrays)
    dy = half.draw(*y.shape, seed=5)
    expected = oracle(*map(half.values, arrays), half.values(dy))
    got = (y, *owner.backward(ctx, dy))
    for array, value, allowed in zip(got, expected, slack or (0.0,) * 4, strict=True):
        half.check(array, value, slack=allowed)


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
    x = half.draw(2, 2, 32, 32)
    y, ctx = op(x, size)
    half.check(y, half.values(x).mean(axis=(2, 3), keepdims=True))
    dy = half.draw(2, 2, 1, 1, seed=1)
    half.check(op.backward(ctx, dy), np.broadcast_to(half.values(dy) / 1024, x.shape), slack=2.0**-25)


@pytest.mark.parametrize("op", [ops.max_pool2d, ops.avg_pool2d], ids=lambda f: f.__name__)
def test_overlapping_gradients(half: Half, op: Any) -> None:
    """49 windows give their gradients to one pixel."""
    values = np.zeros((1, 1, 13, 13))
    values[0, 0, 6, 6] = 1
    _, ctx = op(half.array(values), 7, 1)
    dy = half.draw(1, 1, 7, 7)
    oracle = getattr(oracles, f"{op.__name__}_gradients")
    given = values if op is ops.max_pool2d else values.shape
    half.check(op.backward(ctx, dy), oracle(given, half.values(dy), (7, 7), (1, 1)))


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "softmax", "log_softmax"])
def test_activations(half: Half, name: str) -> None:
    x, dy = half.draw(3, 400), half.draw(3, 400, seed=1)
    xv, dyv = half.values(x), half.values(dy)
    y, ctx = getattr(ops, name)(x)
    # Nothing is summed but softmax's denominator: each step may round to half precision.
    half.check(y, getattr(oracles, name)(xv), slack=2.0**-24, roundings=4)
    # What backward keeps of the forward is rounded: for log_softmax to some units of |y| = 6, which come back
    # as relative errors of p.
    expected = getattr(oracles, name + "_gradients")(xv, dyv)
    size = float(np.abs(dyv if name == "log_softmax" else expected).max())
    half.check(getattr(ops, name).backward(ctx, dy), expected, slack=16 * HALF[half.dtype] * size + 2.0**-24)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gates(half: Half, name: str) -> None:
    """Computed in float32 throughout and rounded once, the left tail too."""
    x, dy = half.array(np.linspace(-6, 6, 301)), half.draw(301, seed=1)
    y, ctx = getattr(ops, name)(x)
    half.check(y, getattr(oracles, name)(half.values(x)), slack=2.0**-25)
    expected = getattr(oracles, name + "_gradients")(half.values(x), half.values(dy))
    half.check(getattr(ops, name).backward(ctx, dy), expected, slack=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_sums_past_2048(half: Half, name: str, axis: int) -> None:
    """5000 equal entries; float16 counting to 5000 in ones would stop at 2048, bfloat16 at 256."""
    shape = (5000, 2) if axis == 0 else (2, 5000)
    dy = half.draw(*shape)
    y, ctx = getattr(ops, name)(half.array(np.ones(shape)), axis=axis)
    half.check(
        y, np.full(shape, 1 / 5000 if name == "softmax" else -np.log(5000)), slack=2.0**-24, roundings=4
    )
    # Both gradients subtract the mean of dy, about 1, with the relative error that y was rounded to.
    size, dyv = 1 / 5000 if name == "softmax" else 1.0, half.values(dy)
    exact = (dyv - dyv.mean(axis=axis, keepdims=True)) * size
    half.check(getattr(ops, name).backward(ctx, dy), exact, slack=16 * HALF[half.dtype] * size + 2.0**-24)


def test_dropout(half: Half) -> None:
    x = half.draw(50, 50)
    y, ctx = ops.dropout(x, 0.3, 1)
    kept = half.values(y) != 0
    for got in (y, ops.dropout.backward(ctx, x)):
        half.check(got, kept * half.values(x) / 0.7, roundings=2)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / 2500)


def test_batch_norms_running_statistics(half: Half) -> None:
    """Of 2000 values whose sum of squares is long past the last unit of half precision."""
    x, (weight, bias, mean, var) = half.draw(20, 2, 10, 10), (half.draw(2, seed=seed) for seed in range(4))
    _, ctx = ops.batch_norm(x, weight, bias, mean, var, train=True)
    batch_mean, _, unbiased = oracles.batch_statistics(half.values(x))
    half.check(ctx.running_mean, 0.9 * half.values(mean) + 0.1 * batch_mean)
    half.check(ctx.running_var, 0.9 * half.values(var) + 0.1 * unbiased)
    y, ctx = ops.batch_norm(x, weight, bias, mean, var)
    half.check(y, oracles.batch_norm(*map(half.values, (x, weight, bias, mean, var))), slack=1e-5)
    values = half.values(x), half.values(weight), half.values(x), half.values(mean), half.values(var)
    expected = oracles.batch_norm_gradients(*values, False)
    for got, value, slack in zip(ops.batch_norm.backward(ctx, x), expected, (1e-5, 1e-3, 0.0), strict=True):
        half.check(got, value, slack=slack)


def test_local_response_norm(half: Half) -> None:
    """A window of 100 squares of up to 300², each beyond float16."""
    x, dy = half.draw(2, 200, 1, 2) * 200, half.draw(2, 200, 1, 2, seed=1)
    y, ctx = ops.local_response_norm(x, 100, alpha=0.1)
    half.check(y, oracles.local_response_norm(half.values(x), 100, alpha=0.1), slack=2.0**-24)
    expected = oracles.local_response_norm_gradients(half.values(x), half.values(dy), 100, alpha=0.1)
    half.check(ops.local_response_norm.backward(ctx, dy), expected, slack=1e-6)


def test_losses(half: Half) -> None:
    """300² is beyond float16; the mean is not."""
    x, labels = half.draw(1000, 10), np.arange(1000) % 10
    loss, ctx = ops.softmax_cross_entropy(x, half.make.array(labels, "int64"))
    half.check(loss, oracles.softmax_cross_entropy(half.values(x), labels))
    expected = oracles.softmax_cross_entropy_gradients(half.values(x), labels)
    half.check(ops.softmax_cross_entropy.backward(ctx), expected, slack=2.0**-24)
    y = half.array(np.where(np.arange(1000) < 10, 300, 0))
    loss, ctx = ops.mean_squared_error(y, half.array(np.zeros(1000)))
    half.check(loss, oracles.mean_squared_error(half.values(y), np.zeros(1000)))
    expected = oracles.mean_squared_error_gradients(half.values(y), np.zeros(1000))
    half.check(ops.mean_squared_error.backward(ctx), expected)
