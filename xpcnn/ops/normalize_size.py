"""Size normalisation: whatever is drawn in an image, stretched to one height and width in its middle."""

from __future__ import annotations

from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend
from xpcnn.errors import ShapeError
from xpcnn.ops.checks import check_dy, check_rank, common_backend, pair, widened
from xpcnn.ops.op import op

__all__ = ["NormalizeSizeContext", "normalize_size", "normalize_size_backward"]

# What is fainter than this is background, or what rounding and interpolation leave around a stroke.
_FAINT = 0.1


class NormalizeSizeContext(NamedTuple):
    """The matrices ``y = rows · x · columnsᵀ`` of each image, and an array of the input's shape and dtype."""

    x: Array
    rows: Array
    columns: Array


@op
def normalize_size(x: Array, size: int | tuple[int, int]) -> tuple[Array, NormalizeSizeContext]:
    """Stretch what each image shows to `size`, in the middle of an image as large as before.

    What an image shows is the smallest upright box with all pixels above 0.1 in any channel. The box is cut
    out and resized, each axis by itself, so that narrow digits become as wide as others. Pixels between two
    are interpolated linearly; where the box shrinks, they are averages weighted by a triangle as wide as it
    takes (antialiased bilinear interpolation). An image without such pixels is taken as a whole.

    Parameters
    ----------
    x : array (N, C, H, W)
        Light on a background of 0, as MNIST's digits in [0, 1]. Half precision is computed in float32.
    size : int or pair of ints
        Height and width of the box, up to H and W.

    Returns
    -------
    y : array (N, C, H, W)
    ctx : NormalizeSizeContext
        Keeps two matrices an image, (N, H, H) and (N, W, W), and a reference to `x`.

    Raises
    ------
    ShapeError
        If `x` has other axes, or is smaller than `size`.
    ArgumentError
        If `size` is no positive int or pair of them.

    References
    ----------
    Cireşan, Meier, Gambardella and Schmidhuber, "Convolutional neural network committees for handwritten
    character classification", 2011: members that see the digits in different widths make different mistakes.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.normalize_size(xpcnn.asarray([[[[0.0, 0.0, 1.0, 0.0]]]]), (1, 2))
    >>> y
    array([[[[0., 1., 1., 0.]]]])
    """
    backend = common_backend("normalize_size", x=x)
    check_rank("normalize_size", "x", x, 4, "(N, C, H, W)")
    height, width = pair("normalize_size", "size", size, 1)
    if height > x.shape[2] or width > x.shape[3]:
        raise ShapeError(
            f"normalize_size: size {(height, width)} does not fit into images of shape {tuple(x.shape)}; "
            f"pad them, or name a smaller size"
        )
    wide = widened(backend, x)
    drawn = backend.xp.any(wide > _FAINT, axis=1)  # (N, H, W)
    rows = _stretch(backend, backend.xp.any(drawn, axis=2), height, wide.dtype)
    columns = _stretch(backend, backend.xp.any(drawn, axis=1), width, wide.dtype)
    ctx = NormalizeSizeContext(x, rows, columns)
    y = _apply(backend, wide, rows, backend.xp.matrix_transpose(columns))
    return backend.xp.astype(y, x.dtype, copy=False), ctx


@normalize_size.def_backward
def normalize_size_backward(ctx: NormalizeSizeContext, dy: Array) -> Array:
    """Return dx, ``rowsᵀ · dy · columns``: no small change of x moves the boxes."""
    backend = check_dy("normalize_size_backward", dy, ctx.x.shape, ctx.x)
    dx = _apply(backend, widened(backend, dy), backend.xp.matrix_transpose(ctx.rows), ctx.columns)
    return backend.xp.astype(dx, dy.dtype, copy=False)


def _apply(backend: Backend, x: Array, left: Array, right: Array) -> Array:
    """Return ``left · x · right`` for each channel of each image."""
    xp = backend.xp
    return xp.matmul(xp.matmul(left[:, None, :, :], x), right[:, None, :, :])


def _stretch(backend: Backend, drawn: Array, size: int, dtype: Any) -> Array:
    """Return matrices (N, L, L) that resize the drawn part of lines (N, L) to `size`, in their middle."""
    xp, length = backend.xp, drawn.shape[1]
    places = xp.arange(length, dtype=dtype, device=backend.device)
    drawn = drawn | ~xp.any(drawn, axis=1, keepdims=True)
    first = xp.min(xp.where(drawn, places, float(length)), axis=1)[:, None, None]
    last = xp.max(xp.where(drawn, places, -1.0), axis=1)[:, None, None]
    scale = (last + 1 - first) / size  # pixels of x for one of y
    target = places[:, None] - (length - size) // 2
    # Where the middle of a pixel of y lies in x, and what the pixels of x weigh there.
    middle = first + (target + 0.5) * scale - 0.5
    weights = 1 - xp.abs(places - middle) / xp.maximum(scale, xp.ones_like(scale))
    seen = (target >= 0) & (target < size) & (places >= first) & (places <= last)
    weights = xp.where(seen & (weights > 0), weights, 0.0)
    total = xp.sum(weights, axis=2, keepdims=True)
    return weights / xp.where(total > 0, total, 1.0)
