"""From bytes to the numbers a model computes on."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.ops.op import accumulator

__all__ = ["scaled_images"]


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
        Of the results. Half precision is computed in float32 and rounded once.
    """
    backend = backend_of(x)
    wide = accumulator(backend, dtype) or dtype
    x = backend.xp.astype(x, wide)
    if len(scales) == 1:
        x *= scales[0]
        if shifts[0]:
            x -= shifts[0]
    else:
        x *= backend.asarray([[[scale]] for scale in scales], wide)
        x -= backend.asarray([[[shift]] for shift in shifts], wide)
    return backend.xp.astype(x, dtype, copy=False)
