"""Pooling: PyTorch's windows and divisors, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracles
from tests.support.ops import LAYOUTS, draw, is_channels_last, mentions, pair
from tests.support.pool_cases import ADAPTIVE, POOLS, Pool
from xpcnn import errors, ops

every_case = pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


@every_case
def test_max_pool2d(make: Any, dtype: str, case: Pool) -> None:
    values = case.values(dtype)
    x = make.array(values)
    with make.unchanged(x):
        y, ctx = ops.max_pool2d(x, **case.options)
    make.check(y, oracles.max_pool2d(values, *case.pairs), dtype, rtol=0)
    dy_values = draw(*y.shape, dtype=dtype, seed=1)
    dy = make.array(dy_values)
    with make.unchanged(x, dy, ctx):
        dx = ops.max_pool2d.backward(ctx, dy)
    make.check(dx, oracles.max_pool2d_gradients(values, dy_values, *case.pairs), dtype)


@pytest.mark.parametrize("count_include_pad", [True, False], ids=["with padding", "without padding"])
@every_case
def test_avg_pool2d(make: Any, dtype: str, case: Pool, count_include_pad: bool) -> None:
    values = case.values(dtype)
    x = make.array(values)
    with make.unchanged(x):
        y, ctx = ops.avg_pool2d(x, **case.options, count_include_pad=count_include_pad)
    make.check(y, oracles.avg_pool2d(values, *case.pairs, count_include_pad), dtype)
    dy_values = draw(*y.shape, dtype=dtype, seed=1)
    dy = make.array(dy_values)
    with make.unchanged(x, dy, ctx):
        dx = ops.avg_pool2d.backward(ctx, dy)
    make.check(dx, oracles.avg_pool2d_gradients(case.shape, dy_values, *case.pairs, count_include_pad), dtype)


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE.values(), ids=ADAPTIVE.keys())
def test_adaptive_avg_pool2d(make: Any, dtype: str, shape: tuple[int, ...], size: Any) -> None:
    values = draw(*shape, dtype=dtype)
    full = tuple(given or actual for given, actual in zip(pair(size), shape[2:], strict=True))
    x = make.array(values)
    with make.unchanged(x):
        y, ctx = ops.adaptive_avg_pool2d(x, size)
    make.check(y, oracles.adaptive_avg_pool2d(values, full), dtype)
    dy_values = draw(*y.shape, dtype=dtype, seed=1)
    dy = make.array(dy_values)
    with make.unchanged(x, dy, ctx):
        dx = ops.adaptive_avg_pool2d.backward(ctx, dy)
    make.check(dx, oracles.adaptive_avg_pool2d_gradients(shape, dy_values, full), dtype)


# Maxima -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -3.0, -np.inf], ids=str)
@pytest.mark.parametrize("padding", [0, 1])
def test_equal_pixels_give_the_gradient_to_the_first(make: Any, value: float, padding: int) -> None:
    """Also where all are -inf, as much as the padding, which still takes nothing."""
    values = np.full((2, 2, 5, 4), value)
    y, ctx = ops.max_pool2d(make.array(values), 3, 2, padding)
    options = (pair(3), pair(2), pair(padding))
    make.check(y, oracles.max_pool2d(values, *options), "float64", rtol=0)
    dy = draw(*y.shape)
    dx = ops.max_pool2d.backward(ctx, make.array(dy))
    make.check(dx, oracles.max_pool2d_gradients(values, dy, *options), "float64")
    assert make.to_numpy(dx).sum() == pytest.approx(dy.sum(), abs=1e-12)


def test_padding_is_below_every_number(make: Any, dtype: str) -> None:
    """Not a large negative number, and not zero."""
    lowest = float(np.finfo(dtype).min)
    y, _ = ops.max_pool2d(make.array(np.full((1, 1, 2, 2), lowest), dtype), 3, 2, 1)
    make.check(y, np.full((1, 1, 1, 1), lowest), dtype, rtol=0)


def test_max_pool2d_passes_infinity_and_nan_on(make: Any) -> None:
    values = draw(1, 1, 4, 6)
    values[0, 0, 0, 0], values[0, 0, 2, 3], values[0, 0, 3, 5] = np.inf, -np.inf, np.nan
    y, _ = ops.max_pool2d(make.array(values), 2)
    expected = values.reshape(1, 1, 2, 2, 3, 2).max(axis=(3, 5))  # NumPy's max of a NaN is NaN
    make.check(y, expected, "float64", rtol=0)


# Layout -----------------------------------------------------------------------------------------------


@every_layout
def test_any_memory_layout(make: Any, layout: Any) -> None:
    case = POOLS["overlapping, padded"]
    x = layout(make, case.values())
    values = make.to_numpy(x)
    y, ctx = ops.max_pool2d(x, **case.options)
    dy = layout(make, draw(*y.shape))
    dy_values = make.to_numpy(dy)
    make.check(y, oracles.max_pool2d(values, *case.pairs), "float64", rtol=0)
    with make.unchanged(x, dy, ctx):
        dx = ops.max_pool2d.backward(ctx, dy)
    make.check(dx, oracles.max_pool2d_gradients(values, dy_values, *case.pairs), "float64")
    y, ctx = ops.avg_pool2d(x, **case.options)
    make.check(y, oracles.avg_pool2d(values, *case.pairs), "float64")
    dx = ops.avg_pool2d.backward(ctx, dy)
    make.check(dx, oracles.avg_pool2d_gradients(case.shape, dy_values, *case.pairs), "float64")
    y, ctx = ops.adaptive_avg_pool2d(x, (4, 3))
    dy = layout(make, draw(*y.shape))
    make.check(y, oracles.adaptive_avg_pool2d(values, (4, 3)), "float64")
    expected = oracles.adaptive_avg_pool2d_gradients(case.shape, make.to_numpy(dy), (4, 3))
    make.check(ops.adaptive_avg_pool2d.backward(ctx, dy), expected, "float64")


@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.avg_pool2d], ids=lambda f: f.__name__)
def test_channels_last_stays(pool: Any) -> None:
    """Pooling works in the layout that convolution hands it."""
    x = np.ascontiguousarray(draw(2, 6, 6, 3)).transpose(0, 3, 1, 2)
    y, _ = pool(x, 2)
    assert is_channels_last(y)


# Sizes ------------------------------------------------------------------------------------------------


@given(
    size=st.integers(1, 9),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 5),
    padding=st.integers(0, 2),
    ceil_mode=st.booleans(),
)
@settings(max_examples=150)
def test_size_or_error(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> None:
    padding = min(padding, kernel // 2)
    expected = oracles.pool_output_size(size, kernel, stride, padding, ceil_mode)
    x = draw(1, 1, size, 5)
    options = {
        "kernel_size": (kernel, 1),
        "stride": (stride, 1),
        "padding": (padding, 0),
        "ceil_mode": ceil_mode,
    }
    if size + 2 * padding < kernel and not ceil_mode:
        for pool, name in ((ops.max_pool2d, "max_pool2d"), (ops.avg_pool2d, "avg_pool2d")):
            with pytest.raises(errors.ShapeError, match=name):
                pool(x, **options)
    elif expected >= 1:
        windows = ((kernel, 1), (stride, 1), (padding, 0), ceil_mode)
        y, ctx = ops.max_pool2d(x, **options)
        np.testing.assert_array_equal(y, oracles.max_pool2d(x, *windows))
        assert y.shape == (1, 1, expected, 5)
        np.testing.assert_allclose(
            ops.max_pool2d.backward(ctx, y), oracles.max_pool2d_gradients(x, y, *windows), rtol=1e-12
        )
        y, _ = ops.avg_pool2d(x, **options)
        np.testing.assert_allclose(y, oracles.avg_pool2d(x, *windows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"kernel_size": 6}, errors.ShapeError),
        ({"kernel_size": 0}, errors.ArgumentError),
        ({"kernel_size": (2, -1)}, errors.ArgumentError),
        ({"kernel_size": 2, "stride": 0}, errors.ArgumentError),
        ({"kernel_size": 2, "stride": -2}, errors.ArgumentError),
        ({"kernel_size": 2, "padding": -1}, errors.ArgumentError),
        ({"kernel_size": 2, "padding": 2}, errors.ArgumentError),
    ],
    ids=str,
)
def test_bad_windows(name: str, options: dict[str, Any], kind: type[errors.XpcnnError]) -> None:
    """Padding beyond half a window would give windows that hold nothing but padding."""
    with pytest.raises(kind, match=name):
        getattr(ops, name)(np.zeros((1, 2, 5, 5)), **options)


@pytest.mark.parametrize("size", [0, -1, (2, 0), (2, 2, 2), 1.5], ids=str)
def test_bad_adaptive_size(size: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="adaptive_avg_pool2d"):
        ops.adaptive_avg_pool2d(np.zeros((1, 2, 5, 5)), size)


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"])
def test_bad_arrays(make: Any, name: str) -> None:
    op, backward = getattr(ops, name), getattr(ops, name).backward
    with pytest.raises(errors.ShapeError, match=mentions(name, "(2, 5, 5)")):
        op(make.array(np.zeros((2, 5, 5))), 2)
    with pytest.raises(errors.DtypeError, match=mentions(name, "int64")):
        op(make.array(np.zeros((1, 2, 4, 4)), "int64"), 2)
    _, ctx = op(make.array(np.zeros((1, 2, 4, 4))), 2)
    with pytest.raises(errors.ShapeError, match=mentions(name + ".backward", "(1, 2, 2, 3)", "(1, 2, 2, 2)")):
        backward(ctx, make.array(np.zeros((1, 2, 2, 3))))
