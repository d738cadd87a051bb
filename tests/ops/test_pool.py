"""Pooling: PyTorch's windows and divisors, by every implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracles
from tests.support.implementations import Implementation
from tests.support.ops import ALL_LAYOUTS, channels_last, draw, is_channels_last, mentions, pair, same_bits
from tests.support.pool_cases import ADAPTIVE, POOLS, Pool
from xpcnn import errors, ops
from xpcnn.ops.max_pool import max_pool_scatter

every_case = pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
every_layout = pytest.mark.parametrize("layout", ALL_LAYOUTS.values(), ids=ALL_LAYOUTS.keys())


def odd(x: Any) -> Any:
    """NaN, infinities and zeros of both signs among the numbers."""
    flat = x.reshape(-1)
    flat[::5], flat[1::7], flat[2::11], flat[3::13] = -np.inf, np.nan, np.inf, -0.0
    return x


CONTENTS = {
    "ties": np.round,
    "all equal": lambda x: np.full_like(x, -2.0),
    "negative infinity": lambda x: np.full_like(x, -np.inf),
    "below zero": lambda x: -1 - np.abs(x),
    "odd": odd,
}


def check_max(i: Implementation, case: Pool, x: Any, dy: Any, *, cpu: bool) -> None:
    values = i.values(x)
    with i.unchanged(x):
        y, ctx = ops.max_pool2d(x, **case.options)
    i.check(y, oracles.max_pool2d(values, *case.pairs), rtol=0)
    i.ran("max_pool_windows", cpu=cpu and np.prod(pair(case.kernel)) > 4)
    with i.unchanged(x, dy, ctx), np.errstate(invalid="ignore"):
        dx = ops.max_pool2d.backward(ctx, dy)
        if i.kind == "cpu":
            same_bits(dx, max_pool_scatter.portable(dy, *ctx))
        expected = oracles.max_pool2d_gradients(values, i.values(dy), *case.pairs)
    i.check(dx, expected)
    i.ran("max_pool_scatter", cpu=cpu)
    if cpu:
        assert is_channels_last(y)
        assert is_channels_last(dx)


@every_case
def test_max_pool2d(implementation: Implementation, case: Pool) -> None:
    i, x = implementation, channels_last(implementation, case.values())
    size = oracles.max_pool2d(case.values(), *case.pairs).shape
    check_max(i, case, x, i.array(draw(*size, seed=1)), cpu=0 not in case.shape)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("name", ["overlapping, padded", "half a kernel of padding", "2x2 ceil"])
def test_ties_and_odd_numbers(implementation: Implementation, name: str, content: Any) -> None:
    """Ties go to the first; padding is below −inf; a NaN passes on, and its window no gradient."""
    i, case = implementation, POOLS[name]
    x = channels_last(i, content(case.values()))
    dy = draw(*oracles.max_pool2d(case.values(), *case.pairs).shape, seed=1)
    check_max(i, case, x, i.array(odd(dy) if content is odd else dy), cpu=True)


@every_case
def test_avg_pool2d(implementation: Implementation, case: Pool) -> None:
    i, x = implementation, implementation.array(case.values())
    for include_pad in (True, False):
        with i.unchanged(x):
            y, ctx = ops.avg_pool2d(x, **case.options, count_include_pad=include_pad)
        i.check(y, oracles.avg_pool2d(i.values(x), *case.pairs, include_pad))
        dy = i.array(draw(*y.shape, seed=1))
        with i.unchanged(x, dy, ctx):
            dx = ops.avg_pool2d.backward(ctx, dy)
        i.check(dx, oracles.avg_pool2d_gradients(case.shape, i.values(dy), *case.pairs, include_pad))
        assert is_channels_last(y)
        assert is_channels_last(dx)
    i.ran("avg_pool_windows", "avg_pool_scatter", cpu=False)


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE.values(), ids=ADAPTIVE.keys())
def test_adaptive_avg_pool2d(make: Any, dtype: str, shape: tuple[int, ...], size: Any) -> None:
    values = draw(*shape, dtype=dtype)
    full = tuple(given or actual for given, actual in zip(pair(size or (None,) * 2), shape[2:], strict=True))
    x = make.array(values)
    with make.unchanged(x):
        y, ctx = ops.adaptive_avg_pool2d(x, size)
    make.check(y, oracles.adaptive_avg_pool2d(values, full), dtype)
    dy_values = draw(*y.shape, dtype=dtype, seed=1)
    dy = make.array(dy_values)
    with make.unchanged(x, dy, ctx):
        dx = ops.adaptive_avg_pool2d.backward(ctx, dy)
    make.check(dx, oracles.adaptive_avg_pool2d_gradients(shape, dy_values, full), dtype)


@every_layout
@pytest.mark.parametrize("name", ["overlapping, padded", "vectors of channels"])
def test_any_memory_layout(implementation: Implementation, layout: Any, name: str) -> None:
    i, case = implementation, POOLS[name]
    x = layout(i, case.values())
    values = i.values(x)
    y, ctx = ops.max_pool2d(x, **case.options)
    dy = layout(i, draw(*y.shape))
    i.check(y, oracles.max_pool2d(values, *case.pairs), rtol=0)
    if layout is not ALL_LAYOUTS["broadcast"]:
        ctx = ctx._replace(y=layout(i, i.to_numpy(y)))
    with i.unchanged(x, dy, ctx):
        dx = ops.max_pool2d.backward(ctx, dy)
    i.check(dx, oracles.max_pool2d_gradients(values, i.values(dy), *case.pairs))
    y, ctx = ops.avg_pool2d(x, **case.options)
    i.check(y, oracles.avg_pool2d(values, *case.pairs))
    dx = ops.avg_pool2d.backward(ctx, dy)
    i.check(dx, oracles.avg_pool2d_gradients(case.shape, i.values(dy), *case.pairs))
    if not i.is_cuda:
        y, ctx = ops.adaptive_avg_pool2d(x, (4, 3))
        dy = layout(i, draw(*y.shape))
        i.check(y, oracles.adaptive_avg_pool2d(values, (4, 3)))
        expected = oracles.adaptive_avg_pool2d_gradients(case.shape, i.values(dy), (4, 3))
        i.check(ops.adaptive_avg_pool2d.backward(ctx, dy), expected)


@pytest.mark.parametrize("n", [2, 40], ids=["small", "large"])
def test_blocks_of_real_size(n: int) -> None:
    """NumPy's kernels leave small arrays to the definition, and cut large ones."""
    memory = draw(n, 24, 24, 30, dtype="float32")
    y, ctx = ops.max_pool2d(memory.transpose(0, 3, 1, 2), 3, 2, 1)
    padded = np.pad(memory, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(y.transpose(0, 2, 3, 1), windows.max((4, 5)))
    same_bits(ops.max_pool2d.backward(ctx, y), max_pool_scatter.portable(y, *ctx))


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
    x, windows = draw(1, 1, size, 5), ((kernel, 1), (stride, 1), (padding, 0), ceil_mode)
    if size + 2 * padding < kernel and not ceil_mode:
        for pool in (ops.max_pool2d, ops.avg_pool2d):
            with pytest.raises(errors.ShapeError, match=pool.__name__):
                pool(x, *windows)
    elif expected >= 1:
        y, ctx = ops.max_pool2d(x, *windows)
        np.testing.assert_array_equal(y, oracles.max_pool2d(x, *windows))
        assert y.shape == (1, 1, expected, 5)
        gradients = oracles.max_pool2d_gradients(x, y, *windows)
        np.testing.assert_allclose(ops.max_pool2d.backward(ctx, y), gradients, rtol=1e-12)
        y, _ = ops.avg_pool2d(x, *windows)
        np.testing.assert_allclose(y, oracles.avg_pool2d(x, *windows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"kernel_size": 6}, errors.ShapeError),
        ({"kernel_size": 0}, errors.ArgumentError),
        ({"kernel_size": (2, -1)}, errors.ArgumentError),
        ({"kernel_size": 2, "stride": 0}, errors.ArgumentError),
        ({"kernel_size": 2, "padding": -1}, errors.ArgumentError),
        ({"kernel_size": 2, "padding": 2}, errors.ArgumentError),
    ],
    ids=str,
)
def test_bad_windows(name: str, options: dict[str, Any], kind: type[errors.XpcnnError]) -> None:
    """Padding beyond half a window would give windows that hold nothing but padding."""
    with pytest.raises(kind, match=name):
        getattr(ops, name)(np.zeros((1, 2, 5, 5)), **options)


def test_bad_adaptive_sizes() -> None:
    for size in (0, -1, (2, 0), (2, 2, 2), 1.5):
        with pytest.raises(errors.ArgumentError, match="adaptive_avg_pool2d"):
            ops.adaptive_avg_pool2d(np.zeros((1, 2, 5, 5)), size)
    with pytest.raises(errors.ShapeError, match=mentions("adaptive_avg_pool2d", "no pixels", "(1, 2, 0, 5)")):
        ops.adaptive_avg_pool2d(np.zeros((1, 2, 0, 5)), 1)
