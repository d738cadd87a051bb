"""Convolution by unfolding: every patch becomes a row of one matrix, and one GEMM does the rest.

Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
processing", 2006. Cross-correlation: the kernel is not flipped.
"""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import Array, backend_of, itemsize, primitive
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.checks import check_rank, common_backend, pair, plain
from xpcnn.ops.conv._layout import Padding, crop, images_of, matrix_of, padded, padded_zeros
from xpcnn.ops.conv.correlation import correlates, correlation_geometry, full_correlation
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm, register
from xpcnn.ops.conv.sharing import once
from xpcnn.ops.op import native_arrays

__all__ = ["Im2col", "col2im", "im2col"]

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]


@register("im2col")
class Im2col(ConvAlgorithm):
    """Unfold the patches, multiply once. Memory: kh·kw times the input.

    Columns are ordered (kh, kw, C), not the classical (C, kh, kw): over channels-last memory each
    row of a patch is then one contiguous run.
    """

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        elements = _elements(geometry)
        if correlates(geometry):
            elements = max(elements, _elements(correlation_geometry(geometry)))
        return (elements + 2 * math.prod(geometry.weight_shape)) * itemsize(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        columns = unfold(x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        # (N·OH·OW, kh·kw·C) @ (kh·kw·C, K)
        y = backend_of(x).product(columns, once(_weight_matrix, weight))
        return images_of(y, geometry)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(x)
        xp = backend.xp
        # Unfolded again rather than kept from forward: the columns are kh·kw times larger than x.
        columns = unfold(x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        dweight = backend.product(xp.matrix_transpose(matrix_of(dy)), columns)  # (K, kh·kw·C)
        return xp.permute_dims(xp.reshape(dweight, (geometry.k, *geometry.kernel, geometry.c)), (0, 3, 1, 2))

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        if correlates(geometry):
            return full_correlation(self.forward, dy, weight, geometry)
        backend = backend_of(dy)
        kernels = backend.xp.matrix_transpose(once(_weight_matrix, weight))
        columns = backend.product(matrix_of(dy), kernels)
        return fold(
            columns,
            geometry.input_shape,
            geometry.kernel,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
        )


def _elements(geometry: ConvGeometry) -> int:
    """Return the numbers of scratch memory that unfolding takes, but for the weights."""
    height, width = geometry.padded_size
    pixels = geometry.n * geometry.oh * geometry.ow
    return (
        geometry.n * geometry.c * height * width  # the padded input, or its gradient
        + pixels * geometry.c * math.prod(geometry.kernel)  # the columns
        + pixels * geometry.k  # y or dy as a matrix
    )


def _weight_matrix(weight: Array) -> Array:
    """Return weight (K, C, kh, kw) as the matrix (kh·kw·C, K) that the columns are multiplied with."""
    xp = backend_of(weight).xp
    k = weight.shape[0]
    return xp.matrix_transpose(
        xp.reshape(xp.permute_dims(weight, (0, 2, 3, 1)), (k, math.prod(weight.shape[1:])))
    )


@primitive
def unfold(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, kh·kw·C)."""
    backend = backend_of(x)
    xp = backend.xp
    windows = backend.sliding_windows(padded(x, padding), kernel, stride, dilation)
    n, c, oh, ow, kh, kw = windows.shape
    if c == 1:
        # A row of a patch would be a run of kw numbers; tap by tap, runs are rows of the output. The GEMM
        # takes the transpose as it is.
        taps = xp.reshape(xp.permute_dims(windows, (4, 5, 1, 0, 2, 3)), (kh * kw * c, n * oh * ow))
        return xp.matrix_transpose(taps)
    return xp.reshape(xp.permute_dims(windows, (0, 2, 3, 4, 5, 1)), (n * oh * ow, kh * kw * c))


@primitive
def unfold_classical(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, C·kh·kw)."""
    backend = backend_of(x)
    xp = backend.xp
    windows = backend.sliding_windows(padded(x, padding), kernel, stride, dilation)
    n, c, oh, ow, kh, kw = windows.shape
    columns = xp.empty((n, oh, ow, c, kh, kw), dtype=x.dtype, device=backend.device)
    columns[...] = xp.permute_dims(windows, (0, 2, 3, 1, 4, 5))  # a copy even where a view would do
    return xp.reshape(columns, (n * oh * ow, c * kh * kw))


@primitive
def fold(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, kh·kw·C) summed where patches overlap, (N, C, H, W); `unfold`'s adjoint."""
    xp = backend_of(columns).xp
    geometry = ConvGeometry(input_shape, (1, input_shape[1], *kernel), stride, padding, dilation)
    patches = xp.reshape(columns, (geometry.n, *geometry.output_size, *kernel, geometry.c))
    return _sum_patches(xp.permute_dims(patches, (0, 5, 1, 2, 3, 4)), geometry)


@primitive
def fold_classical(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, C·kh·kw) summed where patches overlap, (N, C, H, W)."""
    xp = backend_of(columns).xp
    geometry = ConvGeometry(input_shape, (1, input_shape[1], *kernel), stride, padding, dilation)
    patches = xp.reshape(columns, (geometry.n, *geometry.output_size, geometry.c, *kernel))
    return _sum_patches(xp.permute_dims(patches, (0, 3, 1, 2, 4, 5)), geometry)


def _sum_patches(patches: Array, geometry: ConvGeometry) -> Array:
    """Return patches (N, C, OH, OW, kh, kw) summed where they overlap, (N, C, H, W).

    One strided addition for each kernel tap, so no two additions of a step meet in one element.
    """
    x = padded_zeros(patches, geometry.input_shape, geometry.padding)
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    rows, columns = sh * (geometry.oh - 1) + 1, sw * (geometry.ow - 1) + 1
    for r in range(kh):
        for s in range(kw):
            top, left = r * dh, s * dw
            x[:, :, top : top + rows : sh, left : left + columns : sw] += patches[:, :, :, :, r, s]
    return crop(x, geometry.input_shape, geometry.padding)


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
    check_rank("col2im", "columns", columns, 2, "(N·OH·OW, C·kh·kw)")
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
    if len(x_shape) != 4:
        raise ShapeError(f"{op}: images must have 4 axes (N, C, H, W), got shape {tuple(x_shape)}")
    kernel = pair(op, "kernel_size", kernel_size, 1)
    return ConvGeometry.of(x_shape, (1, x_shape[1], *kernel), stride, padding, dilation, op=op)
