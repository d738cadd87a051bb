"""Convolution by image rows, with products that are small to BLAS; see `xpcnn.ops.conv.mec`.

With few channels, images lie outermost in the unfolded rows: each image is then some small products, and the
output is in place at once.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import numpy as np

from xpcnn.backend.cpu.gemm import SMALL
from xpcnn.backend.cpu.parallel import Array, framed, last, place_for, view

__all__ = ["KERNELS"]

_LONGEST: Final = 160
"""kw·C up to which products are small with enough pixels to pay."""

_IN_CACHE: Final = 12 << 10
"""Numbers of an unfolded row that the nearest cache holds beside the sums of the gradient."""


class _Plan(NamedTuple):
    """How the unfolded rows (N, H, OW, kw·C) are read."""

    blocks: int
    """Products that an image is cut into."""
    rows: int
    """Rows of the output in each."""


@functools.lru_cache(maxsize=256)
def _plan(geometry: Any, longest: int = SMALL) -> _Plan | None:
    """Return how to cut products of rows of `longest` numbers, or None where other ways are better."""
    _, k, oh, ow = geometry.output_shape
    inner = geometry.kernel[1] * geometry.c
    if geometry.groups > 1 or geometry.dilation[1] > 1 or not 0 < inner <= _LONGEST or 0 in (oh, ow):
        return None
    most = min(longest // inner, SMALL // (inner * k)) // ow if geometry.stride[0] == 1 else 1
    if most < 1:
        return None
    rows = max(count for count in range(1, oh + 1) if oh % count == 0 and count <= most)
    return _Plan(oh // rows, rows)


def mec_forward(x: Array, filters: Array, geometry: Any, out: Array | None = None) -> Any:
    """Return y (N, K, OH, OW), the filters being a matrix (kw·C, K) for each kernel row."""
    plan = _plan(geometry)
    if plan is None:
        return NotImplemented
    n, k, _, ow = geometry.output_shape
    images, memory = place_for(geometry.output_shape, x.dtype, out)
    y = memory.reshape(n, plan.blocks, plan.rows * ow, k)
    more = np.empty(y.shape, y.dtype) if len(filters) > 1 else y
    for r, rows in enumerate(_unfolded(x, geometry, plan)):
        if r == 0:
            np.matmul(rows, filters[r], out=y)
        else:
            y += np.matmul(rows, filters[r], out=more)
    return images


def mec_grad_weight(x: Array, dy: Array, geometry: Any) -> Any:
    """Return the gradient of those matrices, (kh, kw·C, K)."""
    plan = _plan(geometry, _IN_CACHE)
    if plan is None:
        return NotImplemented
    n, k, _, ow = geometry.output_shape
    gradient = np.ascontiguousarray(last(dy)).reshape(n, plan.blocks, plan.rows * ow, k)
    kh, kw = geometry.kernel
    sums = np.empty((kh, kw * geometry.c, k), x.dtype)
    products = np.empty((n, plan.blocks, *sums.shape[1:]), x.dtype)
    for r, rows in enumerate(_unfolded(x, geometry, plan)):
        np.matmul(rows.swapaxes(2, 3), gradient, out=products)
        np.add.reduce(products, axis=(0, 1), out=sums[r])
    return sums


def _unfolded(x: Array, geometry: Any, plan: _Plan) -> Array:
    """Return, for each kernel row, the windows it meets: (kh, N, blocks, rows·OW, kw·C), a view."""
    images = framed(last(x), geometry.padding)
    n, height, width, c = images.shape
    (kh, kw), (sh, sw), dh = geometry.kernel, geometry.stride, geometry.dilation[0]
    ow = geometry.ow
    s_c = images.itemsize
    s_w, s_h, s_n = s_c * c, s_c * c * width, s_c * c * width * height
    unfolded = view(images, (n, height, ow, kw * c), (s_n, s_h, sw * s_w, s_c)).copy()
    s_n, s_h, s_w, s_c = unfolded.strides
    shape = (kh, n, plan.blocks, plan.rows * ow, kw * c)
    return view(unfolded, shape, (dh * s_h, s_n, sh * plan.rows * s_h, s_w, s_c))


KERNELS: Final = {"mec_grad_weight": mec_grad_weight, "mec_forward": mec_forward}
