"""Winograd's convolution: transforms and products in small blocks; see `xpcnn.ops.conv.winograd`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from xpcnn.backend.host.convolution import Padding, framed, last, place_for, steps, view
from xpcnn.backend.host.memory import Array, is_served
from xpcnn.backend.host.products import multiply_columns

__all__ = ["KERNELS"]


def winograd_input(x: Array, forth: Array, padding: Padding, tiling: Any) -> Any:
    """Return ``forth`` times the tiles of x (N, C, H, W), (t², N·tiles, C)."""
    if not is_served(x, forth):
        return NotImplemented
    m, rows, columns = tiling
    t = m + 2
    images = framed(last(x), padding)
    n, _, _, c = images.shape
    s_n, s_h, s_w, s_c = steps(images)
    windows = view(images, (t, t, n, rows, columns, c), (s_h, s_w, s_n, m * s_h, m * s_w, s_c))
    tiles = np.empty((t * t, n * rows * columns * c), x.dtype)
    np.copyto(tiles.reshape(windows.shape), windows)
    del windows, images
    transformed = np.empty_like(tiles)
    multiply_columns(forth, tiles, transformed)
    return transformed.reshape(t * t, -1, c)


def winograd_output(
    products: Array, back: Array, shape: tuple[int, int, int, int], tiling: Any, out: Array | None = None
) -> Any:
    """Return the images (N, K, OH, OW) whose tiles are ``back`` times the products."""
    if not is_served(products, back):
        return NotImplemented
    m, rows, columns = tiling
    n, k, oh, ow = shape
    tiles = np.empty((m * m, n * rows * columns * k), products.dtype)
    multiply_columns(back, products.reshape(len(products), -1), tiles)
    y, memory = place_for(shape, products.dtype, out)
    whole = (rows * m, columns * m) == (oh, ow)
    images = memory if whole else np.empty((n, rows * m, columns * m, k), products.dtype)
    np.copyto(
        images.reshape(n, rows, m, columns, m, k),
        tiles.reshape(m, m, n, rows, columns, k).transpose(2, 3, 0, 4, 1, 5),
    )
    if not whole:
        memory[...] = images[:, :oh, :ow]
    return y


def winograd_output_gradient(dy: Array, back: Array, tiling: Any) -> Any:
    """Return the gradient of the products, (t², N·tiles, K), given that of the images."""
    if not is_served(dy, back):
        return NotImplemented
    forth = np.ascontiguousarray(back.T)
    m, rows, columns = tiling
    n, k, oh, ow = dy.shape
    images = framed(last(dy), (0, rows * m - oh, 0, columns * m - ow))
    tiles = np.empty((m * m, n * rows * columns * k), dy.dtype)
    np.copyto(
        tiles.reshape(m, m, n, rows, columns, k),
        images.reshape(n, rows, m, columns, m, k).transpose(2, 4, 0, 1, 3, 5),
    )
    del images
    gradient = np.empty((len(forth), tiles.shape[1]), dy.dtype)
    multiply_columns(forth, tiles, gradient)
    return gradient.reshape(len(forth), -1, k)


def winograd_kernel(taps: Array, forth: Array) -> Any:
    """Return ``forth`` (t², 9) times taps (9, C, K)."""
    if not is_served(taps, forth):
        return NotImplemented
    _, c, k = taps.shape
    kernel = np.empty((len(forth), c * k), taps.dtype)
    multiply_columns(forth, np.ascontiguousarray(taps).reshape(9, -1), kernel)
    return kernel.reshape(-1, c, k)


def winograd_taps_gradient(dkernel: Array, forth: Array) -> Any:
    """Return the gradient of the taps, (9, K, C), given that of the kernel, (t², K, C)."""
    if not is_served(dkernel, forth):
        return NotImplemented
    places, a, b = dkernel.shape
    dtaps = np.empty((9, a * b), dkernel.dtype)
    multiply_columns(np.ascontiguousarray(forth.T), dkernel.reshape(places, -1), dtaps)
    return dtaps.reshape(9, a, b)


KERNELS: Final = {
    "winograd_input": winograd_input,
    "winograd_kernel": winograd_kernel,
    "winograd_output": winograd_output,
    "winograd_output_gradient": winograd_output_gradient,
    "winograd_taps_gradient": winograd_taps_gradient,
}
