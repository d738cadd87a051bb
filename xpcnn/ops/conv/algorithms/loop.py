"""The definition of convolution: nested loops over images, output channels and pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from xpcnn.backend import Array, backend_of, itemsize
from xpcnn.ops.conv._layout import crop, pad, padded_zeros
from xpcnn.ops.conv.algorithm import ConvAlgorithm, register
from xpcnn.ops.conv.geometry import ConvGeometry


@register("loop")
class Loop(ConvAlgorithm):
    """``y[n, k, i, j] = Σ_{c,r,s} x[n, c, i·sh + r·dh, j·sw + s·dw] · w[k, c, r, s]``, as written.

    For reading and for checking the others; far too slow for training.
    """

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        height, width = geometry.padded_size
        patch = geometry.c * math.prod(geometry.kernel)
        return (geometry.n * geometry.c * height * width + 2 * patch) * itemsize(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(x)
        xp = backend.xp
        x = pad(x, geometry.padding)
        (n, k, *size) = geometry.output_shape
        y = xp.empty((n, *size, k), dtype=x.dtype, device=backend.device)
        for n, k, i, j in _every(geometry.output_shape):
            y[n, i, j, k] = xp.sum(x[n, :, *_window(geometry, i, j)] * weight[k, ...])
        return xp.permute_dims(y, (0, 3, 1, 2))

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        dx = padded_zeros(dy, geometry.input_shape, geometry.padding)
        for n, k, i, j in _every(geometry.output_shape):
            dx[n, :, *_window(geometry, i, j)] += weight[k, ...] * dy[n, k, i, j]
        return crop(dx, geometry.input_shape, geometry.padding)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(x)
        x = pad(x, geometry.padding)
        dweight = backend.xp.zeros(geometry.weight_shape, dtype=x.dtype, device=backend.device)
        for n, k, i, j in _every(geometry.output_shape):
            dweight[k, ...] += x[n, :, *_window(geometry, i, j)] * dy[n, k, i, j]
        return dweight


def _every(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in shape))


def _window(geometry: ConvGeometry, i: int, j: int) -> tuple[slice, slice]:
    """Return the rows and columns of the padded input that output pixel (i, j) sees."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    rows = slice(i * sh, i * sh + dh * (kh - 1) + 1, dh)
    columns = slice(j * sw, j * sw + dw * (kw - 1) + 1, dw)
    return rows, columns
