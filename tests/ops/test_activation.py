"""Element-wise activations and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import LAYOUTS, draw, is_channels_last, mentions
from xpcnn import errors, ops

ELEMENTWISE = ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu")
SOFTMAX = ("softmax", "log_softmax")
every_elementwise = pytest.mark.parametrize("name", ELEMENTWISE)
every_softmax = pytest.mark.parametrize("name", SOFTMAX)
every_name = pytest.mark.parametrize("name", ELEMENTWISE + SOFTMAX)

EXTREMES = np.array(
    [0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 20.0, -20.0, 88.0, -88.0, 100.0, -100.0, 500.0, -500.0, 1e4, -1e4]
)


def run(name: str, make: Any, values: Any, dy_values: Any, **options: Any) -> tuple[Any, Any]:
    """(y, dx) of an activation, asserting that nothing given was changed."""
    x, dy = make.array(values), make.array(dy_values)
    with make.unchanged(x):
        y, ctx = getattr(ops, name)(x, **options)
    with make.unchanged(x, y, dy, ctx):
        dx = getattr(ops, name).backward(ctx, dy)
    return y, dx


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 4), (7,), (), (0, 3), (0, 3, 2, 2)], ids=str)
@every_elementwise
def test_elementwise(make: Any, dtype: str, name: str, shape: tuple[int, ...]) -> None:
    values, dy = np.asarray(3 * draw(*shape), dtype), np.asarray(draw(*shape, seed=1), dtype)
    y, dx = run(name, make, values, dy)
    make.check(y, getattr(oracles, name)(values), dtype)
    make.check(dx, getattr(oracles, name + "_gradients")(values, dy), dtype)


@every_elementwise
def test_extreme_values(make: Any, dtype: str, name: str) -> None:
    """Finite, without a warning, with the gradient of each at zero."""
    values, dy = EXTREMES.astype(dtype), np.linspace(0.5, 2, EXTREMES.size).astype(dtype)
    y, dx = run(name, make, values, dy)
    make.check(y, getattr(oracles, name)(values), dtype, scale=1.0 if name in ("sigmoid", "tanh") else 1e4)
    make.check(dx, getattr(oracles, name + "_gradients")(values, dy), dtype)


def test_sigmoid_keeps_its_digits_near_zero(make: Any, dtype: str) -> None:
    """The left tail is a small number with as many digits as any other, not the rest of 1 − 1."""
    values = np.array([-5.0, -10.0, -20.0, -40.0, -80.0], dtype)
    y, _ = ops.sigmoid(make.array(values))
    ratio = make.to_numpy(y) / oracles.sigmoid(values)
    np.testing.assert_allclose(ratio, 1, rtol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gates_keep_their_digits_in_the_left_tail(make: Any, dtype: str, name: str) -> None:
    """1 + erf(−4) is a small difference of ones; the value itself is as exact as any other."""
    values = np.array([-0.5, -2.0, -5.0, -8.0, -12.0], dtype)
    y, _ = getattr(ops, name)(make.array(values))
    ratio = make.to_numpy(y) / getattr(oracles, name)(values)
    np.testing.assert_allclose(ratio, 1, rtol=3e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gates_against_torch(make: Any, dtype: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate([np.linspace(-10, 10, 2001), 3 * draw(1000)]).astype(dtype)
    leaf = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    expected = getattr(torch.nn.functional, name)(leaf)
    dy = draw(values.size, dtype=dtype, seed=1)
    expected.backward(torch.tensor(dy, dtype=torch.float64))
    y, dx = run(name, make, values, dy)
    make.check(y, expected.detach().numpy(), dtype, scale=1.0 if dtype == "float64" else None)
    make.check(dx, leaf.grad.numpy(), dtype, scale=1.0 if dtype == "float64" else None)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gates_of_values_whose_square_overflows(make: Any, name: str) -> None:
    values = np.array([3e38, -3e38, 1e20, -1e20], "float32")
    y, dx = run(name, make, values, np.ones(4, "float32"))
    make.check(y, [values[0], 0, values[2], 0], "float32", rtol=1e-6)
    make.check(dx, [1.0, 0.0, 1.0, 0.0], "float32")


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gates_keep_the_input_alone(name: str) -> None:
    x = draw(3, 4)
    _, ctx = getattr(ops, name)(x)
    assert len(ctx) == 1
    assert ctx.x is x


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, 1.5, -0.5], ids=str)
def test_leaky_relu_slope(make: Any, dtype: str, slope: float) -> None:
    """Above 1 or below 0 it is no longer a maximum of two lines."""
    values, dy = draw(4, 5, dtype=dtype), draw(4, 5, dtype=dtype, seed=1)
    y, dx = run("leaky_relu", make, values, dy, slope=slope)
    make.check(y, oracles.leaky_relu(values, slope), dtype)
    make.check(dx, oracles.leaky_relu_gradients(values, dy, slope), dtype)


@every_elementwise
def test_nan_goes_through(make: Any, name: str) -> None:
    """A NaN swallowed here would hide a diverged run."""
    values = np.array([1.0, np.nan, -1.0])
    y, _ = getattr(ops, name)(make.array(values))
    np.testing.assert_array_equal(np.isnan(make.to_numpy(y)), [False, True, False])


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
def test_infinity(make: Any, name: str) -> None:
    values = np.array([np.inf, -np.inf])
    y, _ = getattr(ops, name)(make.array(values))
    expected = {"relu": [np.inf, 0.0], "sigmoid": [1.0, 0.0], "tanh": [1.0, -1.0]}[name]
    make.check(y, expected, "float64", scale=1.0)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@every_name
def test_any_memory_layout(make: Any, name: str, layout: Any) -> None:
    x, dy = layout(make, draw(2, 3, 4, 5)), layout(make, draw(2, 3, 4, 5, seed=1))
    with make.unchanged(x, dy):
        y, ctx = getattr(ops, name)(x)
        dx = getattr(ops, name).backward(ctx, dy)
    values, dy_values = make.to_numpy(x), make.to_numpy(dy)
    make.check(y, getattr(oracles, name)(values), "float64")
    make.check(dx, getattr(oracles, name + "_gradients")(values, dy_values), "float64")


@every_elementwise
def test_channels_last_stays(name: str) -> None:
    """Element-wise operations keep the layout of their input, forward and backward."""
    x = np.ascontiguousarray(draw(2, 4, 5, 3)).transpose(0, 3, 1, 2)
    y, ctx = getattr(ops, name)(x)
    assert is_channels_last(y)
    assert is_channels_last(getattr(ops, name).backward(ctx, x))


# Softmax ----------------------------------------------------------------------------------------------

AXES = {
    "matrix": ((5, 4), -1),
    "matrix, axis 0": ((5, 4), 0),
    "images, channels": ((2, 3, 4, 5), 1),
    "images, last": ((2, 3, 4, 5), -1),
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


# Errors -----------------------------------------------------------------------------------------------


@every_name
def test_bad_arrays(make: Any, name: str) -> None:
    op, backward = getattr(ops, name), getattr(ops, name).backward
    with pytest.raises(errors.DtypeError, match=mentions(name, "int64")):
        op(make.array([1, 2], "int64"))
    _, ctx = op(make.array(draw(2, 3)))
    with pytest.raises(errors.ShapeError, match=mentions(name + ".backward", "(3, 2)", "(2, 3)")):
        backward(ctx, make.array(draw(3, 2)))
    with pytest.raises(errors.DtypeError, match=mentions(name + ".backward", "float32", "float64")):
        backward(ctx, make.array(draw(2, 3), "float32"))


@pytest.mark.parametrize("axis", [2, -3])
@every_softmax
def test_bad_axis(make: Any, name: str, axis: int) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions(name, "axis", str(axis), "(2, 3)")):
        getattr(ops, name)(make.array(draw(2, 3)), axis=axis)
