"""Convolution by unfolding: every patch becomes a row of one matrix, and one GEMM does the rest.

Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
processing", 2006. Cross-correlation: the kernel is not flipped.
"""

from __future__ import annotations

import itertools
import math

from xpcnn.backend import Array, backend_of, matmul, primitive
from xpcnn.ops.conv._layout import crop, padded_zeros, taps
from xpcnn.ops.conv.algorithm import register
from xpcnn.ops.conv.correlation import CorrelatingAlgorithm
from xpcnn.ops.conv.executor import pack_weights
from xpcnn.ops.conv.geometry import ConvGeometry, Padding, Pair

__all__ = ["Im2col", "Shape", "fold", "sum_patches", "unfold"]

Shape = tuple[int, int, int, int]


@register("im2col")
class Im2col(CorrelatingAlgorithm):
    """Unfold the patches, multiply once. Memory: kh·kw times the input.

    Columns are ordered (kh, kw, C), not the classical (C, kh, kw): over channels-last memory each
    row of a patch is then one contiguous run.
    """

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        columns = unfold(x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        y = matmul(columns, pack_weights(_weight_matrix, weight))  # (N·OH·OW, kh·kw·C) @ (kh·kw·C, K)
        n, k, oh, ow = geometry.output_shape
        xp = backend_of(y).xp
        return xp.permute_dims(xp.reshape(y, (n, oh, ow, k)), (0, 3, 1, 2))  # the memory stays channels-last

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        xp = backend_of(x).xp
        # Unfolded again rather than kept from forward: the columns are kh·kw times larger than x.
        columns = unfold(x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        dweight = matmul(xp.matrix_transpose(matrix_of(dy)), columns)  # (K, kh·kw·C)
        return xp.permute_dims(xp.reshape(dweight, (geometry.k, *geometry.kernel, geometry.c)), (0, 3, 1, 2))

    def fold(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        kernels = backend_of(dy).xp.matrix_transpose(pack_weights(_weight_matrix, weight))
        columns = matmul(matrix_of(dy), kernels)
        sizes = geometry.kernel, geometry.stride, geometry.padding, geometry.dilation
        return fold(columns, geometry.input_shape, *sizes)


def matrix_of(images: Array) -> Array:
    """Return images (N, K, OH, OW) as a matrix (N·OH·OW, K), one row a pixel."""
    backend = backend_of(images)
    n, k, oh, ow = images.shape
    return backend.xp.reshape(backend.channels_last(images), (n * oh * ow, k))


def _weight_matrix(weight: Array) -> Array:
    """Return weight (K, C, kh, kw) as the matrix (kh·kw·C, K) that the columns are multiplied with."""
    xp = backend_of(weight).xp
    k = weight.shape[0]
    rows = xp.reshape(xp.permute_dims(weight, (0, 2, 3, 1)), (k, math.prod(weight.shape[1:])))
    return xp.matrix_transpose(rows)


@primitive
def unfold(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, kh·kw·C)."""
    backend = backend_of(x)
    xp = backend.xp
    n, c, h, w = x.shape
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    top, bottom, left, right = padding
    height, width = top + h + bottom, left + w + right
    oh, ow = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    padded = xp.zeros((n, height, width, c), dtype=x.dtype, device=backend.device)
    padded[:, top : top + h, left : left + w, :] = xp.permute_dims(x, (0, 2, 3, 1))
    patches = xp.empty((n, oh, ow, kh, kw, c), dtype=x.dtype, device=backend.device)
    for r, s in itertools.product(range(kh), range(kw)):  # tap (r, s) of every patch at once
        rows = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh)
        columns = slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
        patches[:, :, :, r, s, :] = padded[:, rows, columns, :]
    return xp.reshape(patches, (n * oh * ow, kh * kw * c))


@primitive
def fold(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, kh·kw·C) summed where patches overlap, (N, C, H, W); `unfold`'s adjoint."""
    xp = backend_of(columns).xp
    geometry = ConvGeometry(input_shape, (1, input_shape[1], *kernel), stride, padding, dilation)
    patches = xp.reshape(columns, (geometry.n, *geometry.output_size, *kernel, geometry.c))
    return sum_patches(xp.permute_dims(patches, (0, 5, 1, 2, 3, 4)), geometry)


def sum_patches(patches: Array, geometry: ConvGeometry) -> Array:
    """Return patches (N, C, OH, OW, kh, kw) summed where they overlap, (N, C, H, W).

    One strided addition for each kernel tap, so no two additions of a step meet in one element.
    """
    x = padded_zeros(patches, geometry.input_shape, geometry.padding)
    for r, s, rows, columns in taps(geometry):
        x[:, :, rows, columns] += patches[:, :, :, :, r, s]
    return crop(x, geometry.input_shape, geometry.padding)
