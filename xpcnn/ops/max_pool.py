"""Maximum pooling, and the sizes of all pooling, with PyTorch's rules for sizes and padding.

The passes walk the kernel's taps: tap (r, s) of every window at once is one strided slice of the input.
Nothing is unfolded, nothing scattered, and the memory order of the input is kept.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.op import cached, check_dy, check_rank, common_backend, flag, op, pair, require_possible

__all__ = [
    "MaxPool2dContext",
    "PoolGeometry",
    "full_channels_last",
    "image_index",
    "max_pool2d",
    "max_pool_scatter",
    "max_pool_windows",
    "taps",
]


Pair = tuple[int, int]


class MaxPool2dContext(NamedTuple):
    """References to the input and the maxima; the places of the maxima are found again in backward."""

    x: Array
    y: Array
    geometry: PoolGeometry


@op
def max_pool2d(
    x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False
) -> tuple[Array, MaxPool2dContext]:
    """Take the maximum of each window.

    Parameters
    ----------
    x : array (N, C, H, W)
    kernel_size, stride, padding : int or (height, width)
        The stride defaults to the kernel size. Padding counts as −inf, never as 0.
    ceil_mode : bool
        Round the output size up, as long as the last window starts inside the input or its left padding.

    Returns
    -------
    y : array (N, C, OH, OW)
    ctx : MaxPool2dContext
        Keeps references to `x` and `y`.

    Raises
    ------
    ShapeError
        If the kernel is larger than the padded input.
    ArgumentError
        For a padding above half the kernel.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.max_pool2d(xpcnn.asarray([[[[1.0, 2.0], [4.0, 3.0]]]]), 2)
    >>> y
    array([[[[4.]]]])
    """
    common_backend("max_pool2d", x=x)
    geometry = PoolGeometry.of("max_pool2d", x, kernel_size, stride, padding, ceil_mode)
    y = max_pool_windows(x, *geometry.windows, geometry.output_shape[2:])
    return y, MaxPool2dContext(x, y, geometry)


@max_pool2d.def_backward
def _max_pool2d_grad(ctx: MaxPool2dContext, dy: Array) -> Array:
    """Return dx (N, C, H, W): each gradient goes to the first maximum of its window, in row-major order."""
    geometry = ctx.geometry
    check_dy("max_pool2d.backward", dy, geometry.output_shape, ctx.x)
    return max_pool_scatter(dy, ctx.x, ctx.y, *geometry.windows)


# -- passes over windows -----------------------------------------------------------------


@primitive
def max_pool_windows(x: Array, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair) -> Array:
    """Return the maximum of each window of x (N, C, H, W): (N, C, OH, OW). NaN is above every number."""
    xp = backend_of(x).xp
    met = taps(tuple(x.shape[2:]), output_size, kernel, stride, padding)
    whole = (slice(0, output_size[0]), slice(0, output_size[1]))
    if all(out == whole for out, _ in met):  # no window reaches over the border
        y = functools.reduce(xp.maximum, (x[image_index(source)] for _, source in met))
        # A 1×1 window would hand out a view of x.
        return xp.asarray(y, copy=True) if len(met) == 1 else y
    y = full_channels_last(x, (*x.shape[:2], *output_size), -math.inf)
    for out, source in met:
        y[image_index(out)] = xp.maximum(y[image_index(out)], x[image_index(source)])
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
        at, seen = image_index(out), image_index(source)
        hit = (x[seen] == y[at]) & free[at]
        free[at] ^= hit
        if windows_overlap:
            dx[seen] += backend.masked(hit, dy[at])
        else:
            dx[seen] = backend.masked(hit, dy[at])
    return dx


def full_channels_last(like: Array, shape: tuple[int, ...], value: float, dtype: Any = None) -> Array:
    """Return images (N, C, H, W) over channels-last memory, all pixels `value`."""
    backend = backend_of(like)
    n, c, h, w = shape
    full = backend.xp.full((n, h, w, c), value, dtype=dtype or like.dtype, device=backend.device)
    return backend.xp.permute_dims(full, (0, 3, 1, 2))


def image_index(rows_columns: tuple[slice, slice]) -> tuple[slice, slice, slice, slice]:
    return (slice(None), slice(None), *rows_columns)


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
