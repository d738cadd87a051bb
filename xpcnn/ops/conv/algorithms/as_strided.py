"""Convolution as one contraction of the strided view of all patches.

The view (N, C, OH, OW, kh, kw) costs no memory where the library has strides. What the contraction
does with it is the library's affair: NumPy, CuPy and PyTorch copy it into a matrix before their GEMM,
so the columns of `im2col` exist for a moment all the same, and are counted in the workspace.
"""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import Array, backend_of, itemsize
from xpcnn.ops.conv._layout import pad
from xpcnn.ops.conv.algorithm import ConvAlgorithm, register
from xpcnn.ops.conv.executor import new_channels_last
from xpcnn.ops.conv.geometry import ConvGeometry


@register("as_strided")
class AsStrided(ConvAlgorithm):
    """All three passes are a tensor contraction with a view of patches; dx is a full correlation."""

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        height, width = geometry.padded_size
        pixels = geometry.n * geometry.oh * geometry.ow
        taps = math.prod(geometry.kernel)
        weights = 2 * math.prod(geometry.weight_shape)
        with_x = geometry.n * geometry.c * height * width + pixels * (geometry.c * taps + geometry.k)
        spread_height, spread_width = _spread_size(geometry)
        with_dy = geometry.n * (
            geometry.k * spread_height * spread_width  # dy spread out
            + geometry.h * geometry.w * (geometry.k * taps + geometry.c)  # its patches, and dx
        )
        return (max(with_x, with_dy) + weights) * itemsize(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        xp = backend_of(x).xp
        windows = _windows(x, geometry)
        y = xp.tensordot(windows, weight, axes=((4, 5, 1), (2, 3, 1)))  # (N, OH, OW, K)
        return xp.permute_dims(y, (0, 3, 1, 2))

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        xp = backend_of(x).xp
        windows = xp.permute_dims(_windows(x, geometry), (0, 2, 3, 4, 5, 1))
        dweight = xp.tensordot(dy, windows, axes=((0, 2, 3), (0, 1, 2)))  # (K, kh, kw, C)
        return xp.permute_dims(dweight, (0, 3, 1, 2))

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(dy)
        xp = backend.xp
        windows = backend.sliding_windows(
            _spread(dy, geometry), geometry.kernel, (1, 1), geometry.dilation
        )  # (N, K, H, W, kh, kw)
        rotated = xp.flip(weight, axis=(2, 3))
        dx = xp.tensordot(windows, rotated, axes=((4, 5, 1), (2, 3, 0)))  # (N, H, W, C)
        return xp.permute_dims(dx, (0, 3, 1, 2))


def _windows(x: Array, geometry: ConvGeometry) -> Array:
    """Return the patches of x, (N, C, OH, OW, kh, kw)."""
    sizes = geometry.kernel, geometry.stride, geometry.dilation
    return backend_of(x).sliding_windows(pad(x, geometry.padding), *sizes)


def _spread_size(geometry: ConvGeometry) -> tuple[int, int]:
    (kh, kw), (dh, dw) = geometry.kernel, geometry.dilation
    return geometry.h + dh * (kh - 1), geometry.w + dw * (kw - 1)


def _spread(dy: Array, geometry: ConvGeometry) -> Array:
    """Return dy with stride−1 zeros between its pixels and a border, so that dx is a plain correlation of it.

    Output pixel i reaches input rows i·stride − top + r·dilation. Pixel i is placed so that the window at
    input row h holds all pixels that reach h; pixels that reach only padding fall outside and are dropped.
    """
    height, width = _spread_size(geometry)
    n, k, oh, ow = geometry.output_shape
    top, _, left, _ = geometry.padding
    spread = new_channels_last(dy, (n, k, height, width), zeros=True)
    rows, rows_from = _placement(oh, geometry.stride[0], height - geometry.h - top, height)
    columns, columns_from = _placement(ow, geometry.stride[1], width - geometry.w - left, width)
    spread[:, :, rows, columns] = dy[:, :, rows_from, columns_from]
    return spread


def _placement(count: int, stride: int, offset: int, size: int) -> tuple[slice, slice]:
    """Return where pixels 0..count land at ``offset + i·stride`` within `size`, and which of them do."""
    first = max(0, -(offset // stride))
    stop = max(first, min(count, (size - 1 - offset) // stride + 1))
    if first >= stop:
        return slice(0, 0), slice(0, 0)
    return slice(offset + first * stride, offset + (stop - 1) * stride + 1, stride), slice(first, stop)
