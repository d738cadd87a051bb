"""Winograd's convolution: transforms in height, then in width; see `xpcnn.ops.conv.winograd`.

Small products read tiles where they lie, and write them where they belong: nothing is gathered beforehand or
put together afterwards.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.gemm import gemm_columns
from xpcnn.backend.cpu.parallel import Array, Padding, blocks, framed, last, place_for, steps, view

__all__ = ["KERNELS"]

_SOME: Final = 1024
"""Places of a kernel that are transformed at once, so that what lies halfway takes little memory."""


def winograd_input(x: Array, forth: Array, padding: Padding, tiling: Any) -> Any:
    """Return the tiles of x (N, C, H, W), transformed by `forth` (t, t): (t², N·tiles, C)."""
    return _transformed(framed(last(x), padding), forth, tiling)


def winograd_output(
    products: Array, back: Array, shape: tuple[int, int, int, int], tiling: Any, out: Array | None = None
) -> Any:
    """Return the images (N, K, OH, OW) whose tiles are the products, transformed by `back` (m, t)."""
    m, rows, columns = tiling
    t = m + 2
    n, k, oh, ow = shape
    halfway = np.empty((m, t, n, rows, columns, k), products.dtype)
    gemm_columns(back, products.reshape(t, -1), halfway.reshape(m, -1))
    y, memory = place_for(shape, products.dtype, out)
    whole = (rows * m, columns * m) == (oh, ow)
    images = memory if whole else np.empty((n, rows * m, columns * m, k), products.dtype)
    tiles = images.reshape(n, rows, m, columns, m, k).transpose(2, 0, 1, 3, 4, 5)
    np.matmul(back, halfway.transpose(0, 2, 3, 4, 1, 5), out=tiles)
    if not whole:
        memory[...] = images[:, :oh, :ow]
    return y


def winograd_output_gradient(dy: Array, back: Array, tiling: Any) -> Any:
    """Return the gradient of the products, (t², N·tiles, K), given that of the images."""
    m, rows, columns = tiling
    _, _, oh, ow = dy.shape
    images = framed(last(dy), (0, rows * m - oh, 0, columns * m - ow))
    return _transformed(images, np.ascontiguousarray(back.T), tiling)


def winograd_kernel(taps: Array, forth: Array) -> Any:
    """Return taps (9, C, K), transformed by `forth` (t, 3): (t², C, K)."""
    return _transformed_matrices(taps, forth)


def winograd_taps_gradient(dkernel: Array, forth: Array) -> Any:
    """Return the gradient of the taps, (9, K, C), given that of the kernel, (t², K, C)."""
    return _transformed_matrices(dkernel, np.ascontiguousarray(forth.T))


def _transformed(images: Array, matrix: Array, tiling: Any) -> Array:
    """Return the tiles of images (N, H, W, C), one every m pixels, transformed: (t², N·tiles, C).

    They are as large as `matrix` has columns.
    """
    m, rows, columns = tiling
    t, size = matrix.shape
    n, _, w, c = images.shape
    s_n, s_h, s_w, s_c = steps(images)
    strips = view(images, (n, rows, size, w * c), (s_n, m * s_h, s_h, s_c))
    halfway = np.matmul(matrix, strips)
    s_n, s_r, s_t, _ = steps(halfway)
    windows = view(halfway, (t, n, rows, columns, size, c), (s_t, s_n, s_r, m * s_w, s_w, s_c))
    tiles = np.empty((t, t, n, rows, columns, c), images.dtype)
    np.matmul(matrix, windows, out=tiles.transpose(0, 2, 3, 4, 1, 5))
    return tiles.reshape(t * t, n * rows * columns, c)


def _transformed_matrices(stack: Array, matrix: Array) -> Array:
    """Return a stack of matrices (size², A, B) for size×size places, transformed: (t², A, B)."""
    t, size = matrix.shape
    _, a, b = stack.shape
    tiles = np.ascontiguousarray(stack).reshape(size, size, a * b)
    whole = np.empty((t, t, a * b), stack.dtype)
    scratch = np.empty((size, t, _SOME), stack.dtype)
    for part in blocks(a * b, _SOME):
        halfway = scratch[:, :, : part.stop - part.start]
        np.matmul(matrix, tiles[:, :, part], out=halfway)
        np.matmul(matrix, halfway.swapaxes(0, 1), out=whole[:, :, part].swapaxes(0, 1))
    return whole.reshape(t * t, a, b)


KERNELS: Final = {
    "winograd_input": winograd_input,
    "winograd_kernel": winograd_kernel,
    "winograd_output": winograd_output,
    "winograd_output_gradient": winograd_output_gradient,
    "winograd_taps_gradient": winograd_taps_gradient,
}
