"""Small steps that algorithms share: padding, matrices of images in channels-last order, sums over pixels."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, Backend, backend_of
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = [
    "crop",
    "images_of",
    "matrix_of",
    "narrowed",
    "padded",
    "padded_zeros",
    "sum_over_pixels",
]


def padded(x: Array, geometry: ConvGeometry) -> Array:
    """Return x (N, C, H, W) with zeros around it, over channels-last memory."""
    if geometry.padding == (0, 0, 0, 0):
        backend = backend_of(x)
        return backend.xp.permute_dims(backend.channels_last(x), (0, 3, 1, 2))
    y = padded_zeros(x, geometry)
    top, _, left, _ = geometry.padding
    y[:, :, top : top + geometry.h, left : left + geometry.w] = x
    return y


def padded_zeros(like: Array, geometry: ConvGeometry) -> Array:
    """Return zeros of the padded input's shape, over channels-last memory."""
    backend = backend_of(like)
    shape = (geometry.n, *geometry.padded_size, geometry.c)
    zeros = backend.xp.zeros(shape, dtype=like.dtype, device=backend.device)
    return backend.xp.permute_dims(zeros, (0, 3, 1, 2))


def crop(x: Array, geometry: ConvGeometry) -> Array:
    """Return the part of a padded array that is the input: the adjoint of `padded`."""
    top, _, left, _ = geometry.padding
    return x[:, :, top : top + geometry.h, left : left + geometry.w]


def matrix_of(images: Array) -> Array:
    """Return images (N, K, OH, OW) as a matrix (N·OH·OW, K), one row a pixel."""
    backend = backend_of(images)
    n, k, oh, ow = images.shape
    return backend.xp.reshape(backend.channels_last(images), (n * oh * ow, k))


def images_of(matrix: Array, geometry: ConvGeometry) -> Array:
    """Return a matrix (N·OH·OW, K) as images (N, K, OH, OW): a view, the memory stays channels-last."""
    xp = backend_of(matrix).xp
    n, k, oh, ow = geometry.output_shape
    return xp.permute_dims(xp.reshape(matrix, (n, oh, ow, k)), (0, 3, 1, 2))


def sum_over_pixels(backend: Backend, dy: Array) -> Array:
    """Return the sum of dy (N, K, OH, OW) for each channel: as a matrix product, several times faster."""
    rows = matrix_of(dy)
    ones = backend.xp.ones((1, rows.shape[0]), dtype=dy.dtype, device=backend.device)
    return backend.xp.reshape(ones @ rows, (-1,))


def narrowed(backend: Backend, array: Array, dtype: Any) -> Array:
    """Return `array` in `dtype`, itself where it is so already."""
    return array if array.dtype == dtype else backend.xp.astype(array, dtype)
