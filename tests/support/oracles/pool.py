"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tests.support.oracles.arrays import Array, Index, Pair, float64


def pool_output_size(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """PyTorch's rule: with ceil_mode a last partial window counts if it starts before the right padding."""
    span = size + 2 * padding - kernel
    if not ceil_mode:
        return span // stride + 1
    count = math.ceil(span / stride) + 1
    if (count - 1) * stride >= size + padding:
        count -= 1
    return count


def _pool_axis(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[tuple[slice, int]]:
    """For each window of one axis: the pixels it covers, and its extent counting the padding it covers."""
    windows = []
    for o in range(pool_output_size(size, kernel, stride, padding, ceil_mode)):
        start = o * stride - padding
        stop = min(start + kernel, size + padding)  # a ceil_mode window is cut where the padding ends
        windows.append((slice(max(start, 0), min(stop, size)), stop - start))
    return windows


def _pool_windows(
    x_shape: Index, kernel: Pair, stride: Pair, padding: Pair = (0, 0), ceil_mode: bool = False
) -> Iterator[tuple[Index, tuple[int, int, slice, slice], int]]:
    """(output index, window of x, area with padding) for every pooling window."""
    rows = _pool_axis(x_shape[2], kernel[0], stride[0], padding[0], ceil_mode)
    columns = _pool_axis(x_shape[3], kernel[1], stride[1], padding[1], ceil_mode)
    for n, c in product(range(x_shape[0]), range(x_shape[1])):
        for oy, (window_rows, tall) in enumerate(rows):
            for ox, (window_columns, wide) in enumerate(columns):
                yield (n, c, oy, ox), (n, c, window_rows, window_columns), tall * wide


def _pool_result(
    x_shape: Index, kernel: Pair, stride: Pair, padding: Pair = (0, 0), ceil_mode: bool = False
) -> Array:
    sizes = [
        pool_output_size(*axis, ceil_mode) for axis in zip(x_shape[2:], kernel, stride, padding, strict=True)
    ]
    return np.zeros((x_shape[0], x_shape[1], *sizes))


def max_pool2d(x: Array, *windows: Any) -> Array:
    """The largest pixel of each window (kernel, stride, padding, ceil_mode); padding never wins."""
    y = _pool_result(x.shape, *windows)
    for at, window, _ in _pool_windows(x.shape, *windows):
        y[at] = x[window].max()
    return y


def max_pool2d_gradients(x: Array, dy: Array, *windows: Any) -> Array:
    """The whole gradient goes to the first largest pixel, by rows; none where that is NaN."""
    dx = np.zeros(x.shape)
    for at, window, _ in _pool_windows(x.shape, *windows):
        first = np.unravel_index(np.argmax(x[window]), x[window].shape)
        if not math.isnan(x[window][first]):
            dx[window][first] += dy[at]
    return dx


def avg_pool2d(
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The mean of each window, over the pixels in it or over its area with the padding."""
    x, windows = float64(x), (kernel, stride, padding, ceil_mode)
    y = _pool_result(x.shape, *windows)
    for at, window, area in _pool_windows(x.shape, *windows):
        y[at] = x[window].sum() / (area if count_include_pad else x[window].size)
    return y


def avg_pool2d_gradients(
    x_shape: Index,
    dy: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Each pixel of a window gets an equal part of its gradient."""
    dx = np.zeros(x_shape)
    for at, window, area in _pool_windows(x_shape, kernel, stride, padding, ceil_mode):
        dx[window] += dy[at] / (area if count_include_pad else dx[window].size)
    return dx


def _adaptive_windows(x_shape: Index, size: Pair) -> Iterator[tuple[Index, tuple[int, int, slice, slice]]]:
    height, width = x_shape[2:]
    for n, c, oy, ox in product(range(x_shape[0]), range(x_shape[1]), range(size[0]), range(size[1])):
        rows = slice(math.floor(oy * height / size[0]), math.ceil((oy + 1) * height / size[0]))
        columns = slice(math.floor(ox * width / size[1]), math.ceil((ox + 1) * width / size[1]))
        yield (n, c, oy, ox), (n, c, rows, columns)


def adaptive_avg_pool2d(x: Array, size: Pair) -> Array:
    """The mean over `size` near-equal windows, which may share a row or column."""
    x = float64(x)
    y = np.zeros((*x.shape[:2], *size))
    for at, window in _adaptive_windows(x.shape, size):
        y[at] = x[window].mean()
    return y


def adaptive_avg_pool2d_gradients(x_shape: Index, dy: Array, size: Pair) -> Array:
    """Each pixel of a window gets an equal part of its gradient."""
    dx = np.zeros(x_shape)
    for at, window in _adaptive_windows(x_shape, size):
        dx[window] += dy[at] / dx[window].size
    return dx
