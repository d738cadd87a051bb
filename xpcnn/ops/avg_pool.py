"""Average pooling, with PyTorch's rules for divisors; the sizes are those of `max_pool`."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.errors import ShapeError
from xpcnn.ops.max_pool import PoolGeometry, full_channels_last
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
    upcast,
)

__all__ = ["AdaptiveAvgPool2dContext", "AvgPool2dContext", "adaptive_avg_pool2d", "avg_pool2d"]


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
    geometry = PoolGeometry.of("avg_pool2d", x.shape, kernel_size, stride, padding, ceil_mode)
    y = avg_pool_windows(x, geometry, count_include_pad)
    return y, AvgPool2dContext(x, geometry, count_include_pad)


@avg_pool2d.def_backward
def _avg_pool2d_grad(ctx: AvgPool2dContext, dy: Array) -> Array:
    """Return dx (N, C, H, W): each gradient is shared out evenly over its window."""
    check_dy("avg_pool2d.backward", dy, ctx.geometry.output_shape, ctx.like)
    return avg_pool_scatter(dy, *ctx[1:])


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
    backend = common_backend("adaptive_avg_pool2d", x=x)
    check_rank("adaptive_avg_pool2d", "x", x.shape, 4, "(N, C, H, W)")
    _, _, h, w = x.shape
    if min(h, w) < 1:
        raise ShapeError(f"adaptive_avg_pool2d: x has no pixels (shape {tuple(x.shape)})")
    wanted = plain(output_size)
    wanted = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    sizes = {0: h, 1: w}
    filled = tuple(sizes.get(axis) if size is None else size for axis, size in enumerate(wanted))
    oh, ow = pair("adaptive_avg_pool2d", "output_size", filled, 1)
    require_possible("adaptive_avg_pool2d", "the result", (*x.shape[:2], oh, ow))
    rows, columns = _regions(h, oh), _regions(w, ow)
    wide = upcast(backend, x)
    y = full_channels_last(wide, (*x.shape[:2], oh, ow), 0.0)
    for (i, (top, bottom)), (j, (left, right)) in itertools.product(enumerate(rows), enumerate(columns)):
        y[:, :, i, j] = backend.xp.mean(wide[:, :, top:bottom, left:right], axis=(2, 3))
    return backend.xp.astype(y, x.dtype, copy=False), AdaptiveAvgPool2dContext(x, rows, columns)


@adaptive_avg_pool2d.def_backward
def _adaptive_avg_pool2d_grad(ctx: AdaptiveAvgPool2dContext, dy: Array) -> Array:
    """Return dx (N, C, H, W): each gradient is divided evenly over its region."""
    n, c, h, w = ctx.like.shape
    backend = check_dy("adaptive_avg_pool2d.backward", dy, (n, c, len(ctx.rows), len(ctx.columns)), ctx.like)
    wide = upcast(backend, dy)
    dx = full_channels_last(wide, (n, c, h, w), 0.0)
    places = itertools.product(enumerate(ctx.rows), enumerate(ctx.columns))
    for (i, (top, bottom)), (j, (left, right)) in places:
        part = wide[:, :, i : i + 1, j : j + 1] / ((bottom - top) * (right - left))
        dx[:, :, top:bottom, left:right] += part
    return backend.xp.astype(dx, dy.dtype, copy=False)


def _regions(size: int, count: int) -> tuple[tuple[int, int], ...]:
    return tuple((i * size // count, -(-(i + 1) * size // count)) for i in range(count))


# -- passes over windows -----------------------------------------------------------------


@primitive
def avg_pool_windows(x: Array, geometry: PoolGeometry, count_include_pad: bool) -> Array:
    """Return the mean of each window of x (N, C, H, W): (N, C, OH, OW). Halves are summed in float32."""
    xp = backend_of(x).xp
    scale = _scale(x, geometry, count_include_pad)
    total = full_channels_last(x, geometry.output_shape, 0.0, scale.dtype)
    for out, source in geometry.taps:
        total[out] += xp.astype(x[source], scale.dtype, copy=False)
    total *= scale
    return xp.astype(total, x.dtype, copy=False)


@primitive
def avg_pool_scatter(dy: Array, geometry: PoolGeometry, count_include_pad: bool) -> Array:
    """Return dx (N, C, H, W): each gradient is divided evenly over its window."""
    xp = backend_of(dy).xp
    scale = _scale(dy, geometry, count_include_pad)
    part = xp.astype(dy, scale.dtype, copy=False) * scale
    dx = full_channels_last(dy, geometry.input_shape, 0.0, scale.dtype)
    for out, source in geometry.taps:
        dx[source] += part[out]
    return xp.astype(dx, dy.dtype, copy=False)


def _scale(like: Array, geometry: PoolGeometry, count_include_pad: bool) -> Array:
    """Return each window's 1/divisor (OH, OW), in the dtype that averages are computed in."""
    backend = backend_of(like)
    dtype = accumulator(backend, like.dtype) or like.dtype
    rows, columns = (
        backend.xp.asarray(_divisors(*axis, count_include_pad), dtype=dtype, device=backend.device)
        for axis in geometry.axes
    )
    return 1 / (rows[:, None] * columns[None, :])


def _divisors(
    size: int, count: int, kernel: int, stride: int, padding: int, count_include_pad: bool
) -> list[int]:
    """Return, for each of `count` windows along an axis, how many positions its average counts."""
    first, last = (-padding, size + padding) if count_include_pad else (0, size)
    starts = range(-padding, count * stride - padding, stride)
    return [min(start + kernel, last) - max(start, first) for start in starts]
