"""Winograd's convolution: transforms in height, then in width; see `xpcnn.ops.conv.winograd`.

Small products read tiles where they lie, and write them where they belong: nothing is gathered beforehand or
put together afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.gemm import gemm_columns
from xpcnn.backend.cpu.layout import Array, Padding, framed, last, new_images, steps, view

__all__ = ["KERNELS"]


def winograd_input(x: Array, forth: Array, padding: Padding, tiling: Any) -> Any:
    """Return the tiles of x (N, C, H, W), transformed by `forth` (t, t): (t², N·tiles, C)."""
    return _transformed(framed(last(x), padding), forth, tiling)


def winograd_output(products: Array, back: Array, shape: tuple[int, int, int, int], tiling: Any) -> Any:
    """Return the images (N, K, OH, OW) whose tiles are the products, transformed by `back` (m, t)."""
    m, rows, columns = tiling
    t = m + 2
    n, k, oh, ow = shape
    halfway = np.empty((m, t, n, rows, columns, k), products.dtype)
    gemm_columns(back, products.reshape(t, -1), halfway.reshape(m, -1))
    y, memory = new_images(shape, products.dtype)
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


KERNELS: Final[dict[str, Callable[..., Any]]] = {
    "winograd_input": winograd_input,
    "winograd_output": winograd_output,
    "winograd_output_gradient": winograd_output_gradient,
}
