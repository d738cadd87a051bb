"""The sizes of pooling, with PyTorch's rules, and its four passes over windows.

This is what `pool` asks for once the ranks of its arguments are checked. The passes walk the kernel's taps:
tap (r, s) of every window at once is one strided slice of the input. Nothing is unfolded, nothing scattered,
and the memory order of the input is kept.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.op import accumulator, cached, check_rank, flag, pair, require_possible

__all__ = [
    "PoolGeometry",
    "avg_pool_scatter",
    "avg_pool_windows",
    "divisors",
    "full_channels_last",
    "max_pool_scatter",
    "max_pool_windows",
    "taps",
]

Pair = tuple[int, int]

# -- sizes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolGeometry:
    """The sizes of one pooling. `padding` is (height, width), the same on both sides."""

    input_shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool

    @classmethod
    def of(
        cls, op: str, x: Array, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool
    ) -> PoolGeometry:
        """Return the geometry of the user's arguments, or raise an error that names `op`."""
        check_rank(op, "x", x, 4, "(N, C, H, W)")
        return cls.of_shape(op, tuple(x.shape), kernel_size, stride, padding, ceil_mode)

    @classmethod
    def of_shape(
        cls,
        op: str,
        shape: tuple[int, int, int, int],
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: bool,
    ) -> PoolGeometry:
        """Return `of` images that need not be there yet."""
        ceil_mode = ceil_mode if type(ceil_mode) is bool else flag(f"{op}: ceil_mode", ceil_mode)
        return cached(_build, (op, shape, ceil_mode), kernel_size, stride, padding)

    @functools.cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, C, OH, OW)."""
        n, c, *sizes = self.input_shape
        oh, ow = (
            self._count(size, kernel, stride, padding)
            for size, kernel, stride, padding in zip(
                sizes, self.kernel, self.stride, self.padding, strict=True
            )
        )
        return n, c, oh, ow

    def _count(self, size: int, kernel: int, stride: int, padding: int) -> int:
        room = size + 2 * padding - kernel
        if not self.ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        # A last window that would start in the right-hand padding sees no input: it is left out.
        return count - 1 if (count - 1) * stride >= size + padding else count

    @property
    def windows(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(kernel, stride, padding)."""
        return self.kernel, self.stride, self.padding


@functools.lru_cache(maxsize=1024)
def _build(
    op: str, x_shape: tuple[int, int, int, int], ceil_mode: bool, kernel_size: Any, stride: Any, padding: Any
) -> PoolGeometry:
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair(op, "stride", stride, 1)
    paddings = pair(op, "padding", padding, 0)
    if any(2 * p > k for p, k in zip(paddings, kernel, strict=True)):
        raise ArgumentError(
            f"{op}: padding must be at most half the kernel, got padding {paddings} for kernel {kernel}"
        )
    geometry = PoolGeometry(x_shape, kernel, strides, paddings, ceil_mode)
    if min(geometry.output_shape[2:]) < 1:
        raise ShapeError(
            f"{op}: kernel {kernel[0]}x{kernel[1]} is larger than the padded input "
            f"{x_shape[2] + 2 * paddings[0]}x{x_shape[3] + 2 * paddings[1]} "
            f"(x shape {x_shape}, padding {paddings})"
        )
    padded = (size + 2 * p for size, p in zip(x_shape[2:], paddings, strict=True))
    require_possible(op, "the padded x", (*x_shape[:2], *padded))
    return geometry


Tap = tuple[tuple[slice, slice], tuple[slice, slice]]


@functools.lru_cache(maxsize=1024)
def taps(
    size: tuple[int, int],
    output_size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[Tap, ...]:
    """Return for each kernel tap the output pixels whose tap is inside the input, and the input it meets."""
    rows, columns = (
        [_reach(length, count, step, tap - pad) for tap in range(reach)]
        for length, count, reach, step, pad in zip(size, output_size, kernel, stride, padding, strict=True)
    )
    return tuple(((row[0], column[0]), (row[1], column[1])) for row in rows for column in columns)


def _reach(size: int, count: int, stride: int, offset: int) -> tuple[slice, slice]:
    first = max(0, -(offset // stride))
    stop = max(first, min(count, (size - 1 - offset) // stride + 1))
    begin = first * stride + offset
    end = begin + (stop - first - 1) * stride + 1 if stop > first else begin
    return slice(first, stop), slice(begin, end, stride)


def divisors(
    size: int, count: int, kernel: int, stride: int, padding: int, count_include_pad: bool
) -> list[int]:
    """Return, for each of `count` windows along an axis, how many positions its average counts."""
    counts = []
    for i in range(count):
        start = i * stride - padding
        stop = min(start + kernel, size + padding)
        if not count_include_pad:
            start, stop = max(start, 0), min(stop, size)
        counts.append(stop - start)
    return counts


# -- passes ------------------------------------------------------------------------------


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
