"""Matrix products in blocks that BLAS multiplies in place, and the patches of images as a matrix for them.

OpenBLAS copies both operands of a product into panels, unless it is so small that copying would not pay.
With the few rows or columns that convolutions have, copying takes as long as multiplying: many small
products, which one call of `numpy.matmul` makes, are up to twice as fast as a large one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.layout import Array, Padding, framed, last, steps, view
from xpcnn.backend.threads import map_blocks

__all__ = ["KERNELS", "SMALL", "gemm", "gemm_columns", "matmul", "unfold"]

SMALL: Final = 1_000_000
"""Multiplications up to which OpenBLAS takes a product for a small one."""

_WIDTH: Final = 512
"""Columns of a block where both matrices are only some dozens high."""

_LONGEST: Final = 160
"""The length of the sums up to which a wide matrix gains from being cut."""

_PARTS: Final = 8
"""Parts of large work, for threads."""

_OF_A_PASS: Final = 1 / 16
"""What a multiplication costs, beside passing over an element of memory."""


def matmul(a: Array, b: Array) -> Array:
    """Return ``a @ b`` of two matrices, or of two stacks of matrices (S, M, K) and (S, K, N)."""
    if a.ndim == 2:
        return gemm(a, b)
    out = np.empty((*a.shape[:2], b.shape[2]), np.result_type(a, b))

    def multiply(part: slice) -> None:
        np.matmul(a[part], b[part], out=out[part])

    map_blocks(multiply, len(a), -(-len(a) // _PARTS) or 1, a.size * b.shape[2] * _OF_A_PASS)
    return out


def gemm(a: Array, b: Array) -> Array:
    """Return ``a @ b`` of two matrices (M, K) and (K, N)."""
    rows, columns = len(a), b.shape[1]
    if a.size * columns <= SMALL:
        small: Array = np.matmul(a, b)
        return small
    out = np.empty((rows, columns), np.result_type(a, b))
    if rows < columns:
        gemm_columns(a, b, out)
    else:  # seen from the other side: the transposed product has few rows and many columns
        gemm_columns(b.T, a.T, out.T)
    return out


def gemm_columns(a: Array, b: Array, out: Array) -> None:
    """Write ``a @ b`` to `out`: as many of its many columns at a time as make a small product."""
    width = min(_WIDTH, SMALL // (2 * a.size)) // 16 * 16 if 0 < a.size <= _LONGEST * len(a) else 0

    def multiply(part: slice) -> None:
        wide, product = b[:, part], out[:, part]
        whole = product.shape[1] // width * width if width else 0
        np.matmul(a, _side_by_side(wide[:, :whole], width), out=_side_by_side(product[:, :whole], width))
        np.matmul(a, wide[:, whole:], out=product[:, whole:])

    columns = b.shape[1]
    map_blocks(
        multiply, columns, -(-columns // (_PARTS * _WIDTH)) * _WIDTH or 1, a.size * columns * _OF_A_PASS
    )


def _side_by_side(matrix: Array, width: int) -> Array:
    """Return a matrix as a stack of so many columns each: a view."""
    return matrix.reshape(len(matrix), -1, width or 1).swapaxes(0, 1)


# -- patches as a matrix -----------------------------------------------------------------

Pair = tuple[int, int]


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, kh·kw·C): one strided copy."""
    images = framed(last(x), padding)
    n, height, width, c = images.shape
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    oh, ow = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    s_n, s_h, s_w, s_c = steps(images)
    if c == 1:
        # A row of a patch would be a run of kw numbers; tap by tap, runs are rows of the output. The GEMM
        # takes the transpose as it is.
        taps = view(images, (kh, kw, n, oh, ow), (dh * s_h, dw * s_w, s_n, sh * s_h, sw * s_w))
        return taps.reshape(kh * kw, n * oh * ow).T
    patches = view(images, (n, oh, ow, kh, kw, c), (s_n, sh * s_h, sw * s_w, dh * s_h, dw * s_w, s_c))
    return patches.reshape(n * oh * ow, kh * kw * c)


KERNELS: Final[dict[str, Callable[..., Any]]] = {"matmul": matmul, "unfold": unfold}
