"""Maximum pooling on NumPy: the bits of the portable functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.cpu import Array, channels_last, draw, everywhere_else, is_channels_last, same_bits
from xpcnn import ops
from xpcnn.backend.cpu import pool
from xpcnn.ops import max_pool
from xpcnn.ops.max_pool import PoolGeometry

# (shape, kernel, stride, padding, ceil_mode)
CASES: dict[str, tuple[tuple[int, int, int, int], Any, Any, Any, bool]] = {
    "2x2": ((5, 3, 4, 6), 2, 2, 0, False),
    "2x2 does not divide": ((5, 3, 5, 7), 2, 2, 0, False),
    "2x2 ceil": ((5, 3, 5, 7), 2, 2, 0, True),
    "overlapping": ((5, 2, 6, 7), 3, 1, 0, False),
    "overlapping, stride 2": ((5, 2, 7, 8), 3, 2, 0, False),
    "overlapping, padded": ((5, 2, 6, 7), 3, 2, 1, False),
    "padded ceil": ((5, 2, 6, 7), 3, 2, 1, True),
    "stride 1, padded": ((5, 2, 5, 5), 3, 1, 1, True),
    "half a kernel of padding": ((5, 2, 6, 6), 2, 2, 1, False),
    "4x4, half of it padding": ((5, 2, 6, 6), 4, 2, 2, False),
    "stride 3": ((5, 2, 10, 9), 5, 3, 2, False),
    "stride beyond the kernel": ((5, 2, 7, 8), 3, 5, 0, False),
    "ceil window only in padding": ((1, 2, 3, 3), (3, 2), 3, 1, True),
    "ceil, window past the padding": ((1, 2, 5, 6), (4, 3), (3, 2), (2, 1), True),
    "unequal pairs": ((5, 2, 7, 8), (2, 3), (3, 1), (1, 0), False),
    "one row": ((5, 2, 7, 8), (1, 5), (1, 2), 0, False),
    "window is the input": ((5, 3, 4, 5), (4, 5), None, 0, False),
    "one channel": ((5, 1, 6, 6), 3, 2, 1, False),
    "30 channels": ((5, 30, 8, 8), 2, 2, 0, False),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_content = pytest.mark.parametrize("content", ["normal", "ties", "relu_array", "odd"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LEAST", 1)
    monkeypatch.setattr(pool, "BLOCK_BYTES", 2000)


def values(shape: tuple[int, ...], content: str, dtype: str) -> Array:
    x = draw(*shape, dtype=dtype)
    if content == "ties":
        return np.round(x)
    if content == "relu_array":
        return np.maximum(x, 0)
    if content == "odd":
        flat = x.reshape(-1)
        flat[::5], flat[1::7], flat[2::11], flat[3::13] = -np.inf, np.nan, np.inf, -0.0
    return x


@every_content
@every_case
def test_windows(case: Any, content: str, dtype: str) -> None:
    shape, *window = case
    x = channels_last(values(shape, content, dtype))
    geometry = PoolGeometry.of("test", x, *window)
    arguments = (*geometry.windows, geometry.output_shape[2:])
    y = pool.max_pool_windows(x, *arguments)
    if geometry.kernel[0] * geometry.kernel[1] <= 4:
        assert y is NotImplemented
    else:
        assert same_bits(y, max_pool.max_pool_windows.portable(x, *arguments))
        assert is_channels_last(y)


@every_content
@every_case
def test_gradients(case: Any, content: str, dtype: str) -> None:
    shape, *window = case
    x = channels_last(values(shape, content, dtype))
    geometry = PoolGeometry.of("test", x, *window)
    y = max_pool.max_pool_windows.portable(x, *geometry.windows, geometry.output_shape[2:])
    y = channels_last(y)
    dy = draw(*y.shape, dtype=dtype, seed=1)
    dy.reshape(-1)[::9] = np.nan
    dy.reshape(-1)[1::9] = np.inf
    for gradient in (channels_last(dy), dy, np.broadcast_to(dy[:1], dy.shape)):
        with np.errstate(invalid="ignore"):  # ∞ − ∞ where windows overlap
            expected = max_pool.max_pool_scatter.portable(gradient, x, y, *geometry.windows)
            dx = pool.max_pool_scatter(gradient, x, y, *geometry.windows)
        assert same_bits(dx, expected)
        assert is_channels_last(dx)
        assert not np.signbit(dx[expected == 0]).any() or np.signbit(expected[expected == 0]).any()


def test_other_memory(dtype: str) -> None:
    x = draw(3, 4, 9, 8, dtype=dtype)
    expected, ctx = ops.max_pool2d(channels_last(x), 3, 2, 1)
    dy = draw(*expected.shape, dtype=dtype, seed=1)
    dx = ops.max_pool2d.backward(ctx, dy)
    for other in everywhere_else(x):
        y, ctx = ops.max_pool2d(other, 3, 2, 1)
        assert same_bits(y, expected)
        assert same_bits(ops.max_pool2d.backward(ctx, dy), dx)


def test_what_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(2, 3, 6, 6, dtype="float32")
    windows = ((3, 3), (2, 2), (0, 0))
    assert pool.max_pool_windows(x, *windows, (2, 2)) is NotImplemented  # channels-first
    assert pool.max_pool_windows(channels_last(x.astype("float16")), *windows, (2, 2)) is NotImplemented
    wide = channels_last(draw(2, 300, 6, 6, dtype="float32"))
    y = channels_last(draw(2, 300, 2, 2, dtype="float32"))
    assert pool.max_pool_scatter(y, wide, y, *windows) is NotImplemented
    monkeypatch.setattr(pool, "_LEAST", 1 << 18)
    assert pool.max_pool_windows(channels_last(x), *windows, (2, 2)) is NotImplemented
    empty = channels_last(x[:0])
    assert ops.max_pool2d(empty, 3)[0].shape == (0, 3, 2, 2)
