"""What from-scratch articles begin with, written anew: the loop over pixels, im2col by loops and by slices.

On host arrays alone. They are here to be timed, and to say what the other ways are worth.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from xpcnn.ops import ConvGeometry

__all__ = ["PASSES", "im2col_loop", "im2col_slices", "loop_forward", "loop_grad_input", "loop_grad_weight"]


def loop_forward(x: np.ndarray, weight: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Convolve image by image and pixel by pixel: a patch times all filters, summed."""
    padded = _padded(x, geometry)
    y = np.empty(geometry.output_shape, x.dtype)
    for n, i, j in np.ndindex(geometry.n, *geometry.output_size):
        patch = padded[n][_patch(geometry, i, j)]
        y[n, :, i, j] = (patch * weight).sum(axis=(1, 2, 3))
    return y


def loop_grad_weight(x: np.ndarray, dy: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Add up each pixel's gradient times its patch."""
    padded = _padded(x, geometry)
    dweight = np.zeros(geometry.weight_shape, x.dtype)
    for n, i, j in np.ndindex(geometry.n, *geometry.output_size):
        patch = padded[n][_patch(geometry, i, j)]
        dweight += dy[n, :, i, j, None, None, None] * patch
    return dweight


def loop_grad_input(dy: np.ndarray, weight: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Add each pixel's gradient, times the filters, to its patch."""
    dx = np.zeros((geometry.n, geometry.c, *geometry.padded_size), dy.dtype)
    for n, i, j in np.ndindex(geometry.n, *geometry.output_size):
        dx[n][_patch(geometry, i, j)] += (dy[n, :, i, j, None, None, None] * weight).sum(axis=0)
    top, _, left, _ = geometry.padding
    return dx[:, :, top : top + geometry.h, left : left + geometry.w]


PASSES = {
    "forward": lambda x, weight, dy, geometry: loop_forward(x, weight, geometry),
    "grad_input": lambda x, weight, dy, geometry: loop_grad_input(dy, weight, geometry),
    "grad_weight": lambda x, weight, dy, geometry: loop_grad_weight(x, dy, geometry),
}


def im2col_loop(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the columns (N·OH·OW, C·kh·kw), patch by patch."""
    padded = _padded(x, geometry)
    kh, kw = geometry.kernel
    columns = np.empty((geometry.n * geometry.oh * geometry.ow, geometry.c * kh * kw), x.dtype)
    for row, (n, i, j) in enumerate(np.ndindex(geometry.n, *geometry.output_size)):
        columns[row] = padded[n][_patch(geometry, i, j)].reshape(-1)
    return columns


def im2col_slices(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the columns (N·OH·OW, C·kh·kw): a strided slice of all images for each tap of the kernel."""
    padded = _padded(x, geometry)
    (kh, kw), (oh, ow) = geometry.kernel, geometry.output_size
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    taps = np.empty((geometry.n, geometry.c, kh, kw, oh, ow), x.dtype)
    for r, s in product(range(kh), range(kw)):
        top, left = r * dh, s * dw
        rows, columns = slice(top, top + sh * oh, sh), slice(left, left + sw * ow, sw)
        taps[:, :, r, s] = padded[:, :, rows, columns]
    return taps.transpose(0, 4, 5, 1, 2, 3).reshape(geometry.n * oh * ow, -1)


def _padded(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    top, bottom, left, right = geometry.padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _patch(geometry: ConvGeometry, i: int, j: int) -> tuple[slice, slice, slice]:
    """Return what output pixel (i, j) sees of a padded image."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    rows = slice(i * sh, i * sh + dh * (kh - 1) + 1, dh)
    return slice(None), rows, slice(j * sw, j * sw + dw * (kw - 1) + 1, dw)
