"""Pooling: maxima and averages over windows, with PyTorch's rules for sizes, padding and divisors."""

from __future__ import annotations

from typing import Any, NamedTuple

from xpcnn.backend import Array, backend_of
from xpcnn.errors import ShapeError
from xpcnn.ops.op import (
    accumulator,
    check_dy,
    check_rank,
    common_backend,
    flag,
    op,
    pair,
    plain,
    require_possible,
)
from xpcnn.ops.pool_windows import (
    PoolGeometry,
    avg_pool_scatter,
    avg_pool_windows,
    full_channels_last,
    max_pool_scatter,
    max_pool_windows,
)

__all__ = [
    "AdaptiveAvgPool2dContext",
    "AvgPool2dContext",
    "MaxPool2dContext",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "max_pool2d",
]


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


class AvgPool2dContext(NamedTuple):
    """The sizes, and what divisors count; `like` is the input, kept for its dtype and device alone."""

    like: Array
    geometry: PoolGeometry
    count_include_pad: bool


@op
def avg_pool2d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Array, AvgPool2dContext]:
    """Average each window.

    Parameters
    ----------
    x : array (N, C, H, W)
    kernel_size, stride, padding : int or (height, width)
        The stride defaults to the kernel size. Padding counts as 0.
    ceil_mode : bool
        Round the output size up; what a window then has beyond the padding is never counted.
    count_include_pad : bool
        Whether the divisor counts positions in the padding.

    Returns
    -------
    y : array (N, C, OH, OW)
        Half precision is summed in float32.
    ctx : AvgPool2dContext

    Raises
    ------
    ShapeError, ArgumentError
        As `max_pool2d`.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.avg_pool2d(xpcnn.asarray([[[[1.0, 2.0], [4.0, 3.0]]]]), 2)
    >>> y
    array([[[[2.5]]]])
    """
    common_backend("avg_pool2d", x=x)
    count_include_pad = flag("avg_pool2d: count_include_pad", count_include_pad)
    geometry = PoolGeometry.of("avg_pool2d", x, kernel_size, stride, padding, ceil_mode)
    y = avg_pool_windows(x, *geometry.windows, geometry.output_shape[2:], count_include_pad)
    return y, AvgPool2dContext(x, geometry, count_include_pad)


@avg_pool2d.def_backward
def _avg_pool2d_grad(ctx: AvgPool2dContext, dy: Array) -> Array:
    """Return dx (N, C, H, W): each gradient is shared out evenly over its window."""
    geometry = ctx.geometry
    check_dy("avg_pool2d.backward", dy, geometry.output_shape, ctx.like)
    return avg_pool_scatter(dy, geometry.input_shape[2:], *geometry.windows, ctx.count_include_pad)


class AdaptiveAvgPool2dContext(NamedTuple):
    """The bounds of the regions along each axis; `like` is kept for its shape, dtype and device alone."""

    like: Array
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]


@op
def adaptive_avg_pool2d(x: Array, output_size: Any) -> tuple[Array, AdaptiveAvgPool2dContext]:
    """Average over OH × OW regions that together cover the image.

    Region i of a size S cut in O spans ``floor(i·S/O)`` to ``ceil((i + 1)·S/O)``; neighbours may overlap.

    Parameters
    ----------
    x : array (N, C, H, W)
    output_size : int or (OH, OW)
        None for an axis keeps its size.

    Returns
    -------
    y : array (N, C, OH, OW)
        Half precision is summed in float32.
    ctx : AdaptiveAvgPool2dContext

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.adaptive_avg_pool2d(xpcnn.asarray([[[[1.0, 2.0], [4.0, 3.0]]]]), (1, None))
    >>> y
    array([[[[2.5, 2.5]]]])
    """
    common_backend("adaptive_avg_pool2d", x=x)
    check_rank("adaptive_avg_pool2d", "x", x, 4, "(N, C, H, W)")
    _, _, h, w = x.shape
    wanted = plain(output_size)
    wanted = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    filled = [size if want is None else want for want, size in zip(wanted, (h, w), strict=False)]
    oh, ow = pair("adaptive_avg_pool2d", "output_size", filled if len(wanted) == 2 else output_size, 1)
    if min(h, w) < 1:
        raise ShapeError(f"adaptive_avg_pool2d: x has no pixels (shape {tuple(x.shape)})")
    require_possible("adaptive_avg_pool2d", "the result", (*x.shape[:2], oh, ow))
    rows, columns = _regions(h, oh), _regions(w, ow)
    ctx = AdaptiveAvgPool2dContext(x, rows, columns)
    wide = accumulator(backend_of(x), x.dtype)
    y = _region_means(_region_means(x if wide is None else _cast(x, wide), 2, rows), 3, columns)
    return _cast(y, x.dtype), ctx


@adaptive_avg_pool2d.def_backward
def _adaptive_avg_pool2d_grad(ctx: AdaptiveAvgPool2dContext, dy: Array) -> Array:
    """Return dx (N, C, H, W): each gradient is shared out evenly over its region."""
    n, c, h, w = ctx.like.shape
    backend = check_dy("adaptive_avg_pool2d.backward", dy, (n, c, len(ctx.rows), len(ctx.columns)), ctx.like)
    dtype = accumulator(backend, dy.dtype) or dy.dtype
    dx = full_channels_last(dy, (n, c, h, w), 0.0, dtype)
    for i, (top, bottom) in enumerate(ctx.rows):
        for j, (left, right) in enumerate(ctx.columns):
            share = _cast(dy[:, :, i : i + 1, j : j + 1], dtype) / ((bottom - top) * (right - left))
            dx[:, :, top:bottom, left:right] += share
    return _cast(dx, dy.dtype)


def _regions(size: int, count: int) -> tuple[tuple[int, int], ...]:
    return tuple((i * size // count, -(-(i + 1) * size // count)) for i in range(count))


def _region_means(x: Array, axis: int, regions: tuple[tuple[int, int], ...]) -> Array:
    """Return the mean of each region of an axis of images, over channels-last memory."""
    xp = backend_of(x).xp
    before = (slice(None),) * axis
    y = full_channels_last(x, (*x.shape[:axis], len(regions), *x.shape[axis + 1 :]), 0.0)
    for i, (start, stop) in enumerate(regions):
        mean = xp.mean(x[(*before, slice(start, stop), ...)], axis=axis, keepdims=True)
        y[(*before, slice(i, i + 1), ...)] = mean
    return y


def _cast(x: Array, dtype: Any) -> Array:
    return backend_of(x).xp.astype(x, dtype, copy=False)
