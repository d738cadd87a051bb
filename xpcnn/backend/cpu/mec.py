"""Convolution by image rows, with products that are small to BLAS; see `xpcnn.ops.conv.mec`.

With few channels, images lie outermost in the unfolded rows: each image is then some small products, and the
output is in place at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.gemm import SMALL
from xpcnn.backend.cpu.layout import Array, framed, last, new_images, steps, view

__all__ = ["KERNELS"]

_LONGEST: Final = 160
"""kw·C up to which products are small with enough pixels to pay."""

_IN_CACHE: Final = 12 << 10
"""Numbers of an unfolded row that the nearest cache holds beside the sums of the gradient."""


@functools.lru_cache(maxsize=256)
def _rows_at_once(geometry: Any, longest: int = SMALL) -> int:
    """Return the output rows of a product of `longest` unfolded numbers, or 0 where other ways are better."""
    _, k, oh, ow = geometry.output_shape
    inner = geometry.kernel[1] * geometry.c
    if geometry.groups > 1 or geometry.dilation[1] > 1 or not 0 < inner <= _LONGEST or 0 in (oh, ow):
        return 0
    most = min(longest // inner, SMALL // (inner * k)) // ow if geometry.stride[0] == 1 else 1
    return max((count for count in range(1, oh + 1) if oh % count == 0 and count <= most), default=0)


def mec_forward(x: Array, filters: Array, geometry: Any) -> Any:
    """Return y (N, K, OH, OW), the filters being a matrix (kw·C, K) for each kernel row."""
    rows = _rows_at_once(geometry)
    if not rows:
        return NotImplemented
    images, memory = new_images(geometry.output_shape, x.dtype)
    y = _in_blocks(memory, rows)
    first, *others = zip(_unfolded(x, geometry, rows), filters, strict=True)
    np.matmul(*first, out=y)
    product = np.empty(y.shape, y.dtype) if others else y
    for operands in others:
        y += np.matmul(*operands, out=product)
    return images


def mec_grad_weight(x: Array, dy: Array, geometry: Any) -> Any:
    """Return the gradient of those matrices, (kh, kw·C, K)."""
    rows = _rows_at_once(geometry, _IN_CACHE)
    if not rows:
        return NotImplemented
    gradient = _in_blocks(np.ascontiguousarray(last(dy)), rows)
    taps = (each.swapaxes(2, 3) for each in _unfolded(x, geometry, rows))
    return np.stack([np.add.reduce(np.matmul(each, gradient), axis=(0, 1)) for each in taps])


def _in_blocks(memory: Array, rows: int) -> Array:
    """Return (N, OH, OW, K) in blocks of so many rows, (N, blocks, rows·OW, K)."""
    n, oh, ow, k = memory.shape
    return memory.reshape(n, oh // rows, rows * ow, k)


def _unfolded(x: Array, geometry: Any, rows: int) -> Array:
    """Return, for each kernel row, the windows it meets: (kh, N, blocks, rows·OW, kw·C), a view."""
    images = framed(last(x), geometry.padding)
    n, height, _, c = images.shape
    (kh, kw), (sh, sw), dh = geometry.kernel, geometry.stride, geometry.dilation[0]
    oh, ow = geometry.output_size
    s_n, s_h, s_w, s_c = steps(images)
    unfolded = view(images, (n, height, ow, kw * c), (s_n, s_h, sw * s_w, s_c)).copy()
    s_n, s_h, s_w, s_c = unfolded.strides
    shape = (kh, n, oh // rows, rows * ow, kw * c)
    return view(unfolded, shape, (dh * s_h, s_n, sh * rows * s_h, s_w, s_c))


KERNELS: Final[dict[str, Callable[..., Any]]] = {
    "mec_grad_weight": mec_grad_weight,
    "mec_forward": mec_forward,
}
