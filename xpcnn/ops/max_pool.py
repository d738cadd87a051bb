"""Maximum pooling, and the sizes of all pooling, with PyTorch's rules for sizes and padding.

The passes walk the kernel's taps: tap (r, s) of every window at once is one strided slice of the input.
Nothing is unfolded, nothing scattered, and the memory order of the input is kept.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.backend.windows import window_taps
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.op import (
    cached,
    check_dy,
    check_rank,
    common_backend,
    flag,
    op,
    pair,
    require_possible,
    upcast,
)

__all__ = ["MaxPool2dContext", "PoolGeometry", "full_channels_last", "max_pool2d"]


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
    geometry = PoolGeometry.of("max_pool2d", x.shape, kernel_size, stride, padding, ceil_mode)
    y = max_pool_windows(x, geometry)
    return y, MaxPool2dContext(x, y, geometry)


@max_pool2d.def_backward
def _max_pool2d_grad(ctx: MaxPool2dContext, dy: Array) -> Array:
    """Return dx (N, C, H, W): each gradient goes to the first maximum of its window, in row-major order."""
    check_dy("max_pool2d.backward", dy, ctx.geometry.output_shape, ctx.x)
    return max_pool_scatter(dy, *ctx)


# -- passes over windows -----------------------------------------------------------------


@primitive
def max_pool_windows(x: Array, geometry: PoolGeometry) -> Array:
    """Return the maximum of each window of x (any N, C, H, W): (N, C, OH, OW). NaN is above every number."""
    xp = backend_of(x).xp
    oh, ow = geometry.output_shape[2:]
    whole = image_index((slice(0, oh), slice(0, ow)))
    if all(out == whole for out, _ in geometry.taps):  # no window reaches over the border
        y = functools.reduce(xp.maximum, (x[source] for _, source in geometry.taps))
        # A 1×1 window would hand out a view of x.
        return xp.asarray(y, copy=True) if len(geometry.taps) == 1 else y
    y = full_channels_last(x, (*x.shape[:2], oh, ow), -math.inf)
    for out, source in geometry.taps:
        y[out] = xp.maximum(y[out], x[source])
    return y


@primitive
def max_pool_scatter(dy: Array, x: Array, y: Array, geometry: PoolGeometry) -> Array:
    """Return dx: each gradient goes to the first pixel of its window, row by row, that equals the maximum.

    A window whose maximum is NaN, which equals nothing, passes no gradient on. Halves are summed in float32.
    """
    backend = backend_of(dy)
    xp = backend.xp
    gradient = xp.permute_dims(backend.channels_last(dy), (0, 3, 1, 2))
    if geometry.windows_overlap:
        gradient = upcast(backend, gradient)
    dx = full_channels_last(gradient, tuple(x.shape), 0.0)
    free = xp.ones_like(y, dtype=xp.bool)  # windows that have not met their maximum yet
    for at, seen in geometry.taps:
        hit = (x[seen] == y[at]) & free[at]
        free[at] ^= hit
        if geometry.windows_overlap:
            dx[seen] += backend.masked(hit, gradient[at])
        else:
            dx[seen] = backend.masked(hit, gradient[at])
    return xp.astype(dx, dy.dtype, copy=False)


def full_channels_last(like: Array, shape: tuple[int, ...], value: float, dtype: Any = None) -> Array:
    """Return images (N, C, H, W) over channels-last memory, all pixels `value`."""
    backend = backend_of(like)
    n, c, h, w = shape
    full = backend.xp.full((n, h, w, c), value, dtype=dtype or like.dtype, device=backend.device)
    return backend.xp.permute_dims(full, (0, 3, 1, 2))


# -- sizes -------------------------------------------------------------------------------

ImageIndex = tuple[slice, slice, slice, slice]


def image_index(rows_columns: tuple[slice, slice]) -> ImageIndex:
    """Return the index of some rows and columns of images (N, C, H, W)."""
    return (slice(None), slice(None), *rows_columns)


@dataclass(frozen=True)
class PoolGeometry:
    """The sizes of one pooling. `padding` is (height, width), the same on both sides."""

    input_shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool = False

    @classmethod
    def of(
        cls, op: str, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool
    ) -> PoolGeometry:
        """Return the geometry of the user's arguments, or raise an error that names `op`."""
        ceil_mode = ceil_mode if type(ceil_mode) is bool else flag(f"{op}: ceil_mode", ceil_mode)
        found: PoolGeometry = cached(_build, (op, tuple(shape), ceil_mode), kernel_size, stride, padding)
        return found

    @functools.cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, C, OH, OW)."""
        n, c, *size = self.input_shape
        oh, ow = map(self._count, size, self.kernel, self.stride, self.padding)
        return n, c, oh, ow

    def _count(self, size: int, kernel: int, stride: int, padding: int) -> int:
        room = size + 2 * padding - kernel
        if not self.ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        # A last window that would start in the right-hand padding sees no input: it is left out.
        return count - 1 if (count - 1) * stride >= size + padding else count

    @property
    def axes(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(size, output size, kernel, stride, padding), by rows and by columns."""
        sizes = self.input_shape[2:], self.output_shape[2:]
        return zip(*sizes, self.kernel, self.stride, self.padding, strict=True)

    @property
    def windows_overlap(self) -> bool:
        return any(k > s for k, s in zip(self.kernel, self.stride, strict=True))

    @functools.cached_property
    def taps(self) -> tuple[tuple[ImageIndex, ImageIndex], ...]:
        """For each kernel tap, the output pixels whose tap is inside the input, and the input it meets."""
        rows, columns = (window_taps(*axis) for axis in self.axes)
        pairs = itertools.product(rows, columns)
        return tuple((image_index((r[0], c[0])), image_index((r[1], c[1]))) for r, c in pairs)


@functools.lru_cache(maxsize=1024)
def _build(
    op: str, x_shape: tuple[int, ...], ceil_mode: bool, kernel_size: Any, stride: Any, padding: Any
) -> PoolGeometry:
    check_rank(op, "x", x_shape, 4, "(N, C, H, W)")
    n, c, h, w = x_shape
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair(op, "stride", stride, 1)
    ph, pw = paddings = pair(op, "padding", padding, 0)
    if 2 * ph > kernel[0] or 2 * pw > kernel[1]:
        raise ArgumentError(
            f"{op}: padding must be at most half the kernel, got padding {paddings} for kernel {kernel}"
        )
    geometry = PoolGeometry((n, c, h, w), kernel, strides, paddings, ceil_mode)
    padded = h + 2 * ph, w + 2 * pw
    if min(geometry.output_shape[2:]) < 1:
        raise ShapeError(
            f"{op}: kernel {kernel[0]}x{kernel[1]} is larger than the padded input {padded[0]}x{padded[1]} "
            f"(x shape {x_shape}, padding {paddings})"
        )
    require_possible(op, "the padded x", (n, c, *padded))
    return geometry
