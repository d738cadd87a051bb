"""Matrix products in blocks that BLAS multiplies in place, and the patches of images as a matrix for them.

OpenBLAS copies both operands of a product into panels, unless it is so small that copying would not pay.
With the few rows or columns that convolutions have, copying takes as long as multiplying: many small
products, which one call of `numpy.matmul` makes, are up to twice as fast as a large one.

The blocks do not depend on the number of threads, so neither do the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from xpcnn.backend.cpu.parallel import Array, Padding, blocks, framed, view
from xpcnn.backend.threads import parallel_for

__all__ = ["KERNELS", "SMALL", "batched_gemm", "gemm", "gemm_columns", "matmul", "unfold"]

SMALL: Final = 1_000_000
"""Multiplications up to which OpenBLAS takes a product for a small one."""

_WIDTH: Final = 512
"""Columns of a block where both matrices are only some dozens high."""

_ROWS, _COLUMNS = 32, 64
"""A block of a larger product."""

_HALVED, _UNCUT = 256, 512
"""The lengths of sums above which a block is half as high, so that it stays small, and above which blocks
gain nothing."""

_LONGEST: Final = 160
"""The length of the sums up to which a tall or a wide matrix gains from being cut."""

_FEW, _LONG = 4000, 768
"""Numbers of a product up to which long sums gain from being cut, and to what length."""

_WORTH_A_THREAD: Final = 1 << 25
"""Multiplications that take a core some tenths of a millisecond."""

_PARTS, _FEW_PARTS = 8, 4
"""Pieces that large work is cut into for threads, and where pieces cost something."""


def matmul(a: Array, b: Array) -> Array:
    """Return ``a @ b`` of two matrices, or of two stacks of matrices (S, M, K) and (S, K, N)."""
    if a.ndim == 2:
        return gemm(a, b)
    out = np.empty((a.shape[0], a.shape[1], b.shape[2]), np.result_type(a, b))
    batched_gemm(a, b, out)
    return out


def gemm(a: Array, b: Array) -> Array:
    """Return ``a @ b`` of two matrices (M, K) and (K, N)."""
    (rows, inner), columns = a.shape, b.shape[1]
    if rows * inner * columns <= SMALL:
        small: Array = np.matmul(a, b)
        return small
    if rows * columns <= _FEW and inner > 16 * (rows + columns):
        return _multiply_sums(a, b)
    out = np.empty((rows, columns), np.result_type(a, b))
    if rows < columns:
        _multiply_sides(a, b, out)
    else:  # seen from the other side: the transposed product has few rows and many columns
        _multiply_sides(b.T, a.T, out.T)
    return out


def _multiply_sides(a: Array, b: Array, out: Array) -> None:
    """Write ``a @ b`` to `out`, which has more columns than rows."""
    if len(b) <= _LONGEST:
        _multiply_wide(a, b, out)
        return

    def multiply(part: slice) -> None:
        np.matmul(a, b[:, part], out=out[:, part])

    _in_parts(multiply, b.shape[1], -(-b.shape[1] // _FEW_PARTS), a.size * b.shape[1] // _FEW_PARTS)


def _multiply_wide(a: Array, b: Array, out: Array) -> None:
    """Write ``a @ b`` to `out`, as many columns at a time as make a small product."""
    columns = b.shape[1]
    width = min(_WIDTH, SMALL // (2 * a.size)) // 16 * 16
    if width == 0:
        np.matmul(a, b, out=out)
        return
    whole = columns - columns % width
    np.matmul(a, _side_by_side(b[:, :whole], width), out=_side_by_side(out[:, :whole], width))
    if whole < columns:
        np.matmul(a, b[:, whole:], out=out[:, whole:])


def _multiply_sums(a: Array, b: Array) -> Array:
    """Return ``a @ b``, as the sum of products that are small."""
    (rows, inner), columns = a.shape, b.shape[1]
    length = min(_LONG, SMALL // (rows * columns))
    whole = inner - inner % length
    tall = b[:whole].reshape(-1, length, columns)
    total: Array = np.add.reduce(np.matmul(_side_by_side(a[:, :whole], length), tall), axis=0)
    if whole < inner:
        total += np.matmul(a[:, whole:], b[whole:])
    return total


def _side_by_side(matrix: Array, width: int) -> Array:
    """Return a matrix as a stack of so many columns each: a view."""
    return matrix.reshape(len(matrix), -1, width).swapaxes(0, 1)


def gemm_columns(a: Array, b: Array, out: Array) -> None:
    """Write ``a @ b`` to `out`: a small matrix times one of a few rows with many columns."""
    columns = b.shape[1]

    def multiply(part: slice) -> None:
        _multiply_wide(a, b[:, part], out[:, part])

    step = -(-columns // (_PARTS * _WIDTH)) * _WIDTH
    _in_parts(multiply, columns, step, a.size * columns)


def batched_gemm(a: Array, b: Array, out: Array) -> None:
    """Write ``a @ b`` of stacks (S, M, K) and (S, K, N) to `out`."""
    stack, rows, inner = a.shape
    columns = b.shape[2]
    product = rows * inner * columns
    in_blocks = product > SMALL // 4 and inner <= _UNCUT and columns % _COLUMNS == 0

    def multiply(part: slice) -> None:
        if in_blocks:
            _multiply_blocks(a[part], b[part], out[part])
        else:
            np.matmul(a[part], b[part], out=out[part])

    _in_parts(multiply, stack, -(-stack // _PARTS), stack * product)


def _multiply_blocks(a: Array, b: Array, out: Array) -> None:
    stack, rows, inner = a.shape
    wide = b.reshape(stack, 1, inner, -1, _COLUMNS).swapaxes(2, 3)
    high = _ROWS if inner <= _HALVED else _ROWS // 2
    whole = rows - rows % high
    for part, height in ((slice(0, whole), high), (slice(whole, rows), rows - whole)):
        if part.start < part.stop:
            tall = a[:, part].reshape(stack, -1, 1, height, inner)
            result = out[:, part].reshape(stack, -1, height, wide.shape[2], _COLUMNS)
            np.matmul(tall, wide, out=result.swapaxes(2, 3))


def _in_parts(work: Callable[[slice], None], length: int, step: int, multiplications: int) -> None:
    """Do work on all of `length`: in parts on threads where it is worth it."""
    if multiplications < _WORTH_A_THREAD:
        work(slice(0, length))
    else:
        parallel_for(work, blocks(length, step))


# -- patches as a matrix -----------------------------------------------------------------

Pair = tuple[int, int]


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, kh·kw·C): one strided copy."""
    images = framed(x.transpose(0, 2, 3, 1), padding)
    n, height, width, c = images.shape
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    oh, ow = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    s_c = images.itemsize
    s_w, s_h, s_n = s_c * c, s_c * c * width, s_c * c * width * height
    if c == 1:
        # A row of a patch would be a run of kw numbers; tap by tap, runs are rows of the output. The GEMM
        # takes the transpose as it is.
        taps = view(images, (kh, kw, n, oh, ow), (dh * s_h, dw * s_w, s_n, sh * s_h, sw * s_w))
        return taps.reshape(kh * kw, n * oh * ow).T
    patches = view(images, (n, oh, ow, kh, kw, c), (s_n, sh * s_h, sw * s_w, dh * s_h, dw * s_w, s_c))
    return patches.reshape(n * oh * ow, kh * kw * c)


KERNELS: Final = {"matmul": matmul, "unfold": unfold}
