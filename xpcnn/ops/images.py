"""Images to what a network computes on: bytes to numbers, and pixels to features."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.errors import ShapeError
from xpcnn.ops.op import accumulator, check_dy, common_backend, op

__all__ = ["FlattenContext", "flatten", "scaled_images"]


class FlattenContext(NamedTuple):
    """The input, for its shape."""

    x: Array


@op
def flatten(x: Array) -> tuple[Array, FlattenContext]:
    """Join all axes but the first: (N, C, H, W) -> (N, C·H·W), in the logical order of the axes.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.flatten(xpcnn.asarray([[[1.0, 2.0], [3.0, 4.0]]]))[0]
    array([[1., 2., 3., 4.]])
    """
    xp = common_backend("flatten", x=x).xp
    if x.ndim < 1:
        raise ShapeError("flatten: x must have at least one axis, got a 0-d array")
    return xp.reshape(x, (x.shape[0], math.prod(x.shape[1:]))), FlattenContext(x)


@flatten.def_backward
def _flatten_grad(ctx: FlattenContext, dy: Array) -> Array:
    """Return dx, in the shape of the input; of images, over channels-last memory."""
    shape = tuple(ctx.x.shape)
    backend = check_dy("flatten.backward", dy, (shape[0], math.prod(shape[1:])), ctx.x)
    dx = backend.xp.reshape(dy, shape)
    # Copied here, once: all layers before this one would else meet two layouts.
    return backend.xp.permute_dims(backend.channels_last(dx), (0, 3, 1, 2)) if dx.ndim == 4 else dx


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
