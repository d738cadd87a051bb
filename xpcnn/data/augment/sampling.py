"""Coordinate maps, and one bilinear reading of the images through any chain of them.

A map says, for each position of the *result*, which position of the *source* to read. Positions are (y, x) in
pixels from the image's centre, y downwards. Chained maps are composed before anything is read, so an image is
interpolated once, however many transforms bend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Affine", "Displacement", "Map", "affine", "read"]

Array = NDArray[Any]
_BLOCK = 1 << 14  # values read at once: what the coordinates and corners of these take stays in cache


class Affine(NamedTuple):
    """``source = matrix[:, :, :2] @ (y, x) + matrix[:, :, 2]``, one for each image."""

    matrix: Array
    """(N, 2, 3), float64"""

    def after(self, inner: Affine) -> Affine:
        """The map that applies `inner` to a position of the result, then this one."""
        product = self.matrix[:, :, :2] @ inner.matrix
        product[:, :, 2] += self.matrix[:, :, 2]
        return Affine(product)


class Displacement(NamedTuple):
    """``source = position + field(position)``; bilinear between pixels, the edge's value outside."""

    field: Array
    """(N, 2, H, W), in pixels: of y, then of x"""


Map = Affine | Displacement


def affine(
    n: int, yy: Any = 1.0, yx: Any = 0.0, xy: Any = 0.0, xx: Any = 1.0, *, y: Any = 0.0, x: Any = 0.0
) -> Affine:
    """An Affine for `n` images from its entries, each a number or (n,): the identity unless given."""
    matrix = np.empty((n, 2, 3))
    for place, entry in zip(np.ndindex(2, 3), (yy, yx, y, xy, xx, x), strict=True):
        matrix[:, *place] = entry
    return Affine(matrix)


def read(images: Array, maps: Sequence[Map]) -> Array:
    """Images (N, C, H, W) seen through `maps`, at least one, in the order in which they change the image.

    The background is 0. Reading is bilinear, computed in float32 (float64 for float64 images) and rounded to
    nearest for uint8; so moves by whole pixels and flips are exact.
    """
    chain = _merge_affine(maps)
    n, channels, height, width = images.shape
    dtype = np.result_type(images.dtype, np.float32)
    result = np.empty(images.shape, images.dtype)
    step = max(1, _BLOCK // (channels * height * width))
    # One zero before, so that what lies outside reads 0 without a mask, and two after: the neighbour of the
    # last of these is read too, with weight 0.
    padded = np.zeros((min(step, n), channels, height + 3, width + 3), dtype)
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        planes = padded[: block.stop - start]
        planes[:, :, 1:-2, 1:-2] = images[block]
        y, x = _positions(chain, block, height, width, dtype)
        values = _bilinear(planes, _index(y, height, 1) + 1, _index(x, width, 1) + 1)
        if images.dtype == np.uint8:
            values += 0.5  # the cast truncates
        result[block] = values
    return result


def _merge_affine(maps: Sequence[Map]) -> list[Map]:
    """The same chain with neighbouring affine maps multiplied out."""
    merged: list[Map] = []
    for new in maps:
        if merged and isinstance(new, Affine) and isinstance(merged[-1], Affine):
            merged[-1] = merged[-1].after(new)
        else:
            merged.append(new)
    return merged


def _positions(
    chain: Sequence[Map], block: slice, height: int, width: int, dtype: np.dtype[Any]
) -> tuple[Array, Array]:
    """Where each pixel of a block of images is read: y and x (n, H, W) from the centre."""
    grid_y = (np.arange(height) - (height - 1) / 2).astype(dtype)[:, None]
    grid_x = (np.arange(width) - (width - 1) / 2).astype(dtype)
    y, x = grid_y, grid_x
    for part in reversed(chain):  # the last change of the image is the first that a position goes through
        if isinstance(part, Affine):
            m = part.matrix[block].astype(dtype)[..., None, None]
            y, x = (m[:, i, 0] * y + m[:, i, 2] + m[:, i, 1] * x for i in range(2))
        else:
            field = part.field[block].astype(dtype, copy=False)
            if y is not grid_y:  # off the pixels: read the field between them
                padded = np.pad(field, ((0, 0), (0, 0), (0, 1), (0, 1)))
                field = _bilinear(padded, _index(y, height), _index(x, width))
            y, x = y + field[:, 0], x + field[:, 1]
    return y, x


def _index(position: Array, size: int, outside: int = 0) -> Array:
    """From the centre to the index of a pixel, at most so many pixels outside."""
    return np.clip(position + (size - 1) / 2, -outside, size - 1 + outside)


def _bilinear(planes: Array, y: Array, x: Array) -> Array:
    """The values of planes (n, C, H, W) at y and x (n, …); each has a neighbour below and to the right."""
    n, channels, height, width = planes.shape
    whole_y, whole_x = np.floor(y), np.floor(x)
    down, right = (y - whole_y)[:, None], (x - whole_x)[:, None]
    first = np.arange(n * channels).reshape(n, channels, 1, 1) * (height * width)
    index = (whole_y.astype(np.intp) * width + whole_x.astype(np.intp))[:, None] + first
    flat = planes.reshape(-1)
    # A slice moves every reading by one, without a new index.
    corner = partial(np.take, indices=index, mode="clip")
    top: Array = corner(flat)
    bottom: Array = corner(flat[width:])
    top += right * (corner(flat[1:]) - top)
    bottom += right * (corner(flat[width + 1 :]) - bottom)
    top += down * (bottom - top)
    return top
