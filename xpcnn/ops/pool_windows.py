"""The four passes of pooling over windows: what `pool` asks for once its arguments are checked.

All of them walk the kernel's taps: tap (r, s) of every window at once is one strided slice of the
input. Nothing is unfolded, nothing scattered, and the memory order of the input is kept.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.ops.checks import accumulator
from xpcnn.ops.pool_geometry import divisors, taps

__all__ = [
    "avg_pool_scatter",
    "avg_pool_windows",
    "full_channels_last",
    "max_pool_scatter",
    "max_pool_windows",
]

Pair = tuple[int, int]


@primitive
def max_pool_windows(x: Array, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair) -> Array:
    """Return the maximum of each window of x (N, C, H, W): (N, C, OH, OW). NaN is above every number."""
    xp = backend_of(x).xp
    met = taps(tuple(x.shape[2:]), output_size, kernel, stride, padding)
    whole = (slice(0, output_size[0]), slice(0, output_size[1]))
    if all(out == whole for out, _ in met):  # no window reaches over the border
        y = functools.reduce(xp.maximum, (x[_image_index(source)] for _, source in met))
        # A 1×1 window would hand out a view of x.
        return xp.asarray(y, copy=True) if len(met) == 1 else y
    y = full_channels_last(x, (*x.shape[:2], *output_size), -math.inf)
    for out, source in met:
        y[_image_index(out)] = xp.maximum(y[_image_index(out)], x[_image_index(source)])
    return y


@primitive
def max_pool_scatter(dy: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Return dx: each gradient goes to the first pixel of its window, row by row, that equals the maximum.

    A window whose maximum is NaN, which equals nothing, passes no gradient on.
    """
    backend = backend_of(dy)
    xp = backend.xp
    dy = xp.permute_dims(backend.channels_last(dy), (0, 3, 1, 2))
    dx = full_channels_last(dy, tuple(x.shape), 0.0)
    free = xp.ones_like(y, dtype=xp.bool)  # windows that have not met their maximum yet
    windows_overlap = any(k > s for k, s in zip(kernel, stride, strict=True))
    for out, source in taps(tuple(x.shape[2:]), tuple(y.shape[2:]), kernel, stride, padding):
        at, seen = _image_index(out), _image_index(source)
        hit = (x[seen] == y[at]) & free[at]
        free[at] ^= hit
        if windows_overlap:
            dx[seen] += backend.keep_where(hit, dy[at])
        else:
            dx[seen] = backend.keep_where(hit, dy[at])
    return dx


@primitive
def avg_pool_windows(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair, count_include_pad: bool
) -> Array:
    """Return the mean of each window of x (N, C, H, W): (N, C, OH, OW). Halves are summed in float32."""
    xp = backend_of(x).xp
    size = tuple(x.shape[2:])
    scale = _scale(x, size, output_size, kernel, stride, padding, count_include_pad)
    total = full_channels_last(x, (*x.shape[:2], *output_size), 0.0, scale.dtype)
    for out, source in taps(size, output_size, kernel, stride, padding):
        total[_image_index(out)] += xp.astype(x[_image_index(source)], scale.dtype, copy=False)
    total *= scale
    return xp.astype(total, x.dtype, copy=False)


@primitive
def avg_pool_scatter(
    dy: Array, input_size: Pair, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool
) -> Array:
    """Return dx (N, C, *input_size): each gradient is shared out evenly over its window."""
    xp = backend_of(dy).xp
    output_size = tuple(dy.shape[2:])
    scale = _scale(dy, input_size, output_size, kernel, stride, padding, count_include_pad)
    share = xp.astype(dy, scale.dtype, copy=False) * scale
    dx = full_channels_last(dy, (*dy.shape[:2], *input_size), 0.0, scale.dtype)
    for out, source in taps(input_size, output_size, kernel, stride, padding):
        dx[_image_index(source)] += share[_image_index(out)]
    return xp.astype(dx, dy.dtype, copy=False)


def full_channels_last(like: Array, shape: tuple[int, ...], value: float, dtype: Any = None) -> Array:
    """Return images (N, C, H, W) over channels-last memory, all pixels `value`."""
    backend = backend_of(like)
    n, c, h, w = shape
    full = backend.xp.full((n, h, w, c), value, dtype=dtype or like.dtype, device=backend.device)
    return backend.xp.permute_dims(full, (0, 3, 1, 2))


def _scale(
    like: Array, size: Pair, output_size: Pair, kernel: Pair, stride: Pair, padding: Pair, include_pad: bool
) -> Array:
    """Return each window's 1/divisor (OH, OW), in the dtype that averages are computed in."""
    backend = backend_of(like)
    dtype = accumulator(backend, like.dtype) or like.dtype
    rows, columns = (
        backend.xp.asarray(divisors(*axis, include_pad), dtype=dtype, device=backend.device)
        for axis in zip(size, output_size, kernel, stride, padding, strict=True)
    )
    return 1 / (rows[:, None] * columns[None, :])


def _image_index(rows_columns: tuple[slice, slice]) -> tuple[slice, slice, slice, slice]:
    return (slice(None), slice(None), *rows_columns)
