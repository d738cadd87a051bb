"""From bytes to the numbers a model computes on, flipped and moved on the way if asked."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, backend_of, primitive

__all__ = ["moved_scaled_images", "scaled_images"]


@primitive
def scaled_images(x: Array, scales: tuple[float, ...], shifts: tuple[float, ...], dtype: Any) -> Array:
    """Return ``x · scale − shift`` of uint8 images in a floating dtype of their backend.

    Parameters
    ----------
    x : array (N, ...), or (N, C, H, W) where channels differ
        uint8.
    scales, shifts : tuple of float
        One for all, or one for each channel.
    dtype : dtype
        What the results, and the constants, are rounded to.
    """
    backend = backend_of(x)
    x = backend.xp.astype(x, dtype)
    if len(scales) == 1:
        x *= scales[0]
        if shifts[0]:
            x -= shifts[0]
    else:
        x *= backend.asarray([[[scale]] for scale in scales], dtype)
        x -= backend.asarray([[[shift]] for shift in shifts], dtype)
    return x


@primitive
def moved_scaled_images(
    x: Array, moves: Array, scales: tuple[float, ...], shifts: tuple[float, ...], dtype: Any
) -> Array:
    """Return `scaled_images` of images that are flipped, and moved by whole pixels, first.

    Parameters
    ----------
    x : array (N, C, H, W)
        uint8.
    moves : array (N, 4)
        int32: (top, down, left, right) for each image. Row i of the result is row ``top + down · i`` of `x`,
        column j its column ``left + right · j``, and 0 where there is none. down and right are 1 or −1.
    scales, shifts, dtype
        As in `scaled_images`.
    """
    xp, (n, c, h, w) = backend_of(x).xp, x.shape
    device = backend_of(x).device
    moves = xp.astype(moves, xp.int64)
    rows = moves[:, 0, None] + moves[:, 1, None] * xp.arange(h, device=device)  # (N, H)
    columns = moves[:, 2, None] + moves[:, 3, None] * xp.arange(w, device=device)
    inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((columns >= 0) & (columns < w))[:, None, None, :]
    planes = xp.reshape(xp.arange(n * c, device=device), (n, c, 1, 1))
    places = (planes * h + xp.clip(rows, 0, h - 1)[:, None, :, None]) * w
    places = places + xp.clip(columns, 0, w - 1)[:, None, None, :]
    moved = xp.reshape(xp.take(xp.reshape(x, (-1,)), xp.reshape(places, (-1,))), x.shape)
    moved = moved * xp.astype(inside, x.dtype)
    return scaled_images(moved, scales, shifts, dtype)
