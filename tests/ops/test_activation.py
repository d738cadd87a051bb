"""Activations and softmax: values, gradients and extremes; ReLU and sums by every implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.implementations import Implementation
from tests.support.ops import ALL_LAYOUTS, draw, is_channels_last, mentions, same_bits
from xpcnn import errors, ops
from xpcnn.ops.activation import add, relu_array, relu_grad

ELEMENTWISE = ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu")
GATES = ("gelu", "silu")
SOFTMAX = ("softmax", "log_softmax")
every_elementwise = pytest.mark.parametrize("name", ELEMENTWISE)
every_gate = pytest.mark.parametrize("name", GATES)
every_softmax = pytest.mark.parametrize("name", SOFTMAX)
EXTREMES = np.array([-1e4, -1000.0, -100.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 100.0, 1000.0, 1e4])


def run(name: str, make: Any, values: Any, dy_values: Any, **options: Any) -> tuple[Any, Any]:
    """y and dx, with inputs and context checked to be left alone."""
    x, dy = make.array(values), make.array(dy_values)
    with make.unchanged(x):
        y, ctx = getattr(ops, name)(x, **options)
    with make.unchanged(x, y, dy, ctx):
        dx = getattr(ops, name).backward(ctx, dy)
    return y, dx


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 4), (), (0, 3, 2, 2)], ids=str)
@every_elementwise
def test_elementwise(make: Any, dtype: str, name: str, shape: tuple[int, ...]) -> None:
    values, dy = np.asarray(3 * draw(*shape), dtype), np.asarray(draw(*shape, seed=1), dtype)
    y, dx = run(name, make, values, dy)
    make.check(y, getattr(oracles, name)(values), dtype)
    make.check(dx, getattr(oracles, name + "_gradients")(values, dy), dtype)


@every_elementwise
def test_extreme_values(make: Any, dtype: str, name: str) -> None:
    """Finite, without a warning, with the gradient of each at zero; NaN and infinities go through."""
    values, dy = EXTREMES.astype(dtype), np.linspace(0.5, 2, EXTREMES.size).astype(dtype)
    y, dx = run(name, make, values, dy)
    make.check(y, getattr(oracles, name)(values), dtype, scale=1.0 if name in ("sigmoid", "tanh") else 1e4)
    make.check(dx, getattr(oracles, name + "_gradients")(values, dy), dtype)
    y, _ = getattr(ops, name)(make.array([1.0, np.nan, -1.0], dtype))
    np.testing.assert_array_equal(np.isnan(make.to_numpy(y)), [False, True, False])
    limits = {"relu": [np.inf, 0.0], "sigmoid": [1.0, 0.0], "tanh": [1.0, -1.0]}
    if name in limits:
        y, _ = getattr(ops, name)(make.array([np.inf, -np.inf], dtype))
        make.check(y, limits[name], dtype, scale=1.0)


@pytest.mark.parametrize("name", ["sigmoid", *GATES])
def test_digits_of_the_left_tail(make: Any, dtype: str, name: str) -> None:
    """A small number with as many digits as any other, not the rest of 1 − 1."""
    values = np.array(
        [-0.5, -2.0, -5.0, -8.0, -12.0] if name in GATES else [-5.0, -10.0, -40.0, -80.0], dtype
    )
    y, _ = getattr(ops, name)(make.array(values))
    ratio = make.to_numpy(y) / getattr(oracles, name)(values)
    rtol = 1e-13 if dtype == "float64" else 3e-5 if name in GATES else 1e-5
    np.testing.assert_allclose(ratio, 1, rtol=rtol)


@every_gate
def test_gates_of_values_whose_square_overflows(make: Any, name: str) -> None:
    values = np.array([3e38, -3e38, 1e20, -1e20], "float32")
    y, dx = run(name, make, values, np.ones(4, "float32"))
    make.check(y, [values[0], 0, values[2], 0], "float32", rtol=1e-6)
    make.check(dx, [1.0, 0.0, 1.0, 0.0], "float32")
    x = draw(3, 4)
    _, ctx = getattr(ops, name)(x)
    assert len(ctx) == 1
    assert ctx.x is x


@pytest.mark.parametrize("slope", [0.0, 1.5, -0.5], ids=str)
def test_leaky_relu_slope(make: Any, dtype: str, slope: float) -> None:
    """Above 1 or below 0 it is no longer a maximum of two lines."""
    values, dy = draw(4, 5, dtype=dtype), draw(4, 5, dtype=dtype, seed=1)
    y, dx = run("leaky_relu", make, values, dy, slope=slope)
    make.check(y, oracles.leaky_relu(values, slope), dtype)
    make.check(dx, oracles.leaky_relu_gradients(values, dy, slope), dtype)


# ReLU and sums, by every implementation ---------------------------------------------------------------

SHAPES = [(), (0, 3), (7,), (2, 3, 5), (2, 3, 4, 5), (3, 1, 4, 5), (2, 7, 1, 1), (3, 30, 41, 40)]


def odd(*shape: int, dtype: str) -> Any:
    """Normal numbers with NaN, infinities, zeros of both signs and subnormal numbers among them."""
    x = draw(*shape, dtype=dtype)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).smallest_subnormal]
    x.reshape(-1)[: x.size - x.size % 6 : 7] = np.resize(special, -(-(x.size - x.size % 6) // 7))
    return x


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relu_and_sums_to_the_bit(cpu: Implementation, shape: tuple[int, ...]) -> None:
    i, values = cpu, odd(*shape, dtype=cpu.dtype_name)
    with np.errstate(all="ignore"):
        layouts = [i.array, *(lambda x, f=f: f(i, x) for f in ALL_LAYOUTS.values() if len(shape) == 4)]
        for layout in layouts:
            x, dy = layout(np.asarray(values)), layout(np.asarray(draw(*shape, dtype=i.dtype_name, seed=1)))
            with i.unchanged(x, dy):
                y, total, gradient = relu_array(x), add(x, dy), relu_grad(dy, x)
            same_bits(y, np.maximum(x, np.zeros((), x.dtype)))
            same_bits(total, np.asarray(x + dy))
            same_bits(gradient, np.where(x > 0, dy, np.zeros((), x.dtype)))
            assert not np.signbit(y[y == 0]).any()
            for made in (y, total, gradient):
                assert not np.shares_memory(made, x)
                assert np.asarray(made).flags.writeable
                assert len(shape) < 4 or not is_channels_last(x) or is_channels_last(made)
    i.ran("relu_array")
    i.ran("relu_grad", "add", cpu=len(shape) > 0 and 0 not in shape)


# Softmax ----------------------------------------------------------------------------------------------

AXES = {
    "matrix": ((5, 4), -1),
    "matrix, axis 0": ((5, 4), 0),
    "images, channels": ((2, 3, 4, 5), 1),
    "images, axis -3": ((2, 3, 4, 5), -3),
    "vector": ((6,), -1),
    "one class": ((3, 1), -1),
    "empty batch": ((0, 4), -1),
}


@pytest.mark.parametrize(("shape", "axis"), AXES.values(), ids=AXES.keys())
@every_softmax
def test_softmax(make: Any, dtype: str, name: str, shape: tuple[int, ...], axis: int) -> None:
    values, dy = (3 * draw(*shape)).astype(dtype), draw(*shape, dtype=dtype, seed=1)
    y, dx = run(name, make, values, dy, axis=axis)
    make.check(y, getattr(oracles, name)(values, axis), dtype)
    make.check(dx, getattr(oracles, name + "_gradients")(values, dy, axis), dtype, scale=1.0)


@pytest.mark.parametrize("size", [500.0, 1e4], ids=str)
@every_softmax
def test_softmax_of_extreme_values(make: Any, dtype: str, name: str, size: float) -> None:
    values = size * np.array([[1, -1, 0], [-1, -1, -1], [1, 1, 1], [0, 1, 0.999], [-1, 0, -0.999]])
    values, dy = values.astype(dtype), draw(5, 3, dtype=dtype)
    y, dx = run(name, make, values, dy)
    make.check(y, getattr(oracles, name)(values), dtype)
    make.check(dx, getattr(oracles, name + "_gradients")(values, dy), dtype)


@every_softmax
def test_masked_entries(make: Any, name: str) -> None:
    """-inf marks what must get no probability."""
    values = np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, 5.0]])
    y, _ = getattr(ops, name)(make.array(values))
    e = np.exp(1)
    expected = np.array([[1 / (1 + e), 0, e / (1 + e)], [0, 0, 1]])
    if name == "log_softmax":
        expected = np.array([[-np.log1p(e), -np.inf, 1 - np.log1p(e)], [-np.inf, -np.inf, 0]])
    make.check(y, expected, "float64")


def test_log_softmax_keeps_small_logarithms(make: Any) -> None:
    """log p of a near-certain class is −e⁻³⁰, which log(softmax) would round to 0."""
    y, _ = ops.log_softmax(make.array([[30.0, 0.0]]))
    assert float(make.to_numpy(y)[0, 1]) == pytest.approx(-30.0)
    assert float(make.to_numpy(y)[0, 0]) == pytest.approx(-np.exp(-30.0), rel=1e-2)


@every_softmax
def test_errors(make: Any, name: str) -> None:
    op = getattr(ops, name)
    for axis in (2, -3):
        with pytest.raises(errors.ArgumentError, match=mentions(name, "axis", str(axis), "(2, 3)")):
            op(make.array(draw(2, 3)), axis=axis)
    with pytest.raises(errors.ArgumentError, match=mentions(name, "empty", "(2, 0)")):
        op(make.array(draw(2, 0)))
