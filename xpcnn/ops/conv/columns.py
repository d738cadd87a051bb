"""`im2col` and `col2im`: patches as the rows of a matrix, in the classical order, and back.

Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
processing", 2006.
"""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.conv.algorithms.im2col import Shape, fold, unfold
from xpcnn.ops.conv.geometry import ConvGeometry, Padding, Pair
from xpcnn.ops.op import check_rank, common_backend, native_arrays, pair, plain

__all__ = ["col2im", "im2col"]


@native_arrays
def im2col(x: Array, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Array:
    """Unfold the patches of images into the rows of a matrix.

    Parameters
    ----------
    x : array (N, C, H, W)
    kernel_size, stride, padding, dilation : int or (height, width)
        `padding` may also be ``"valid"`` or ``"same"``.

    Returns
    -------
    array (N·OH·OW, C·kh·kw)
        One row for each output pixel, in the order image, row, column; the dtype of `x`.

    Raises
    ------
    ShapeError
        If the kernel is larger than the padded input.

    References
    ----------
    Chellapilla, Puri and Simard, 2006.

    Examples
    --------
    >>> import xpcnn
    >>> x = xpcnn.asarray([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    >>> xpcnn.ops.im2col(x, 2)
    array([[1., 2., 4., 5.],
           [2., 3., 5., 6.]])
    """
    common_backend("im2col", x=x)
    geometry = _patch_geometry("im2col", x.shape, kernel_size, stride, padding, dilation)
    return unfold_classical(x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)


@native_arrays
def col2im(
    columns: Array,
    input_shape: tuple[int, int, int, int],
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
) -> Array:
    """Fold the rows of a matrix back into images, summing where patches overlap: the adjoint of `im2col`.

    Parameters
    ----------
    columns : array (N·OH·OW, C·kh·kw)
    input_shape : (N, C, H, W)
        The shape of the images.
    kernel_size, stride, padding, dilation : int or (height, width)
        As they were given to `im2col`.

    Returns
    -------
    array (N, C, H, W)

    Raises
    ------
    ShapeError
        If `columns` has not the shape `im2col` gives for these arguments.

    Examples
    --------
    >>> import xpcnn
    >>> columns = xpcnn.asarray([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    >>> xpcnn.ops.col2im(columns, (1, 1, 2, 3), 2)
    array([[[[1., 2., 1.],
             [1., 2., 1.]]]])
    """
    common_backend("col2im", columns=columns)
    check_rank("col2im", "columns", columns.shape, 2, "(N·OH·OW, C·kh·kw)")
    input_shape = plain(input_shape)
    if not isinstance(input_shape, tuple) or not all(type(size) is int for size in input_shape):
        raise ArgumentError(f"col2im: input_shape must be four ints (N, C, H, W), got {input_shape!r}")
    geometry = _patch_geometry("col2im", input_shape, kernel_size, stride, padding, dilation)
    needed = (geometry.n * geometry.oh * geometry.ow, geometry.c * math.prod(geometry.kernel))
    if tuple(columns.shape) != needed:
        raise ShapeError(
            f"col2im: columns have shape {tuple(columns.shape)} but input_shape {input_shape} with "
            f"kernel {geometry.kernel}, stride {geometry.stride}, padding {padding!r} needs {needed}"
        )
    sizes = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
    return fold_classical(columns, geometry.input_shape, *sizes)


def _patch_geometry(
    op: str, x_shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> ConvGeometry:
    check_rank(op, "images", x_shape, 4, "(N, C, H, W)")
    kernel = pair(op, "kernel_size", kernel_size, 1)
    return ConvGeometry.of(x_shape, (1, x_shape[1], *kernel), stride, padding, dilation, op=op)


@primitive
def unfold_classical(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, C·kh·kw)."""
    return _turned(unfold(x, kernel, stride, padding, dilation), math.prod(kernel), x.shape[1])


@primitive
def fold_classical(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, C·kh·kw) summed where patches overlap, (N, C, H, W)."""
    rows = _turned(columns, input_shape[1], math.prod(kernel))
    return fold(rows, input_shape, kernel, stride, padding, dilation)


def _turned(rows: Array, a: int, b: int) -> Array:
    """Return rows of a·b numbers in the order b·a."""
    xp = backend_of(rows).xp
    matrices = xp.reshape(rows, (rows.shape[0], a, b))
    return xp.reshape(xp.matrix_transpose(matrices), (rows.shape[0], b * a))
