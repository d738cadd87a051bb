"""Ops that only rearrange."""

from __future__ import annotations

import math
from typing import NamedTuple

from xpcnn.backend import Array
from xpcnn.errors import ShapeError
from xpcnn.ops.op import check_dy, common_backend, op

__all__ = ["FlattenContext", "flatten"]


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
