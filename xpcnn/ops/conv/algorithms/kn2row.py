"""Convolution without columns: one 1×1 convolution for each kernel tap, of the image shifted under it.

Sources: Vasudevan, Anderson and Gregg, "Parallel multi channel convolution using general matrix
multiplication", 2017; Anderson, Vasudevan, Keane and Gregg, "Low-memory GEMM-based convolution algorithms for
deep neural networks", 2017.
"""

from __future__ import annotations

import math

from xpcnn.backend import Array, backend_of
from xpcnn.ops.conv._layout import crop, pad, taps, total
from xpcnn.ops.conv.algorithm import register
from xpcnn.ops.conv.correlation import CorrelatingAlgorithm
from xpcnn.ops.conv.executor import pack_weights
from xpcnn.ops.conv.geometry import ConvGeometry


@register("kn2row")
class Kn2row(CorrelatingAlgorithm):
    """Sum kh·kw products; over channels-last memory the shifted image is a matrix in place.

    Memory: the padded image and two outputs. A depthwise convolution, one channel a group, is a product of
    numbers instead of matrices, and is done for all groups at once.
    """

    native_groups = True
    weight_copies = 3

    def elements(self, geometry: ConvGeometry) -> int:
        n, k, oh, ow = geometry.output_shape
        height, width = geometry.padded_size
        image, one_tap = geometry.c * height * width, geometry.c * oh * ow
        elements = image + max(2 * k * oh * ow, one_tap + k * oh * ow)
        if geometry.groups > 1:
            elements += max(k * oh * ow, one_tap)  # products with the groups side by side again
        return n * elements

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(x)
        x = backend.channels_last(pad(x, geometry.padding))
        filters = pack_weights(_filters, weight, geometry.groups)
        products = (
            _product(x[:, rows, columns, :], filters[r, s, ...]) for r, s, rows, columns in taps(geometry)
        )
        return backend.xp.permute_dims(total(products), (0, 3, 1, 2))

    def fold(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(dy)
        xp = backend.xp
        dy = backend.channels_last(dy)
        filters = pack_weights(_transposed_filters, weight, geometry.groups)
        height, width = geometry.padded_size
        shape = (geometry.n, height, width, geometry.c)
        dx = xp.zeros(shape, dtype=dy.dtype, device=backend.device)
        for r, s, rows, columns in taps(geometry):
            dx[:, rows, columns, :] += _product(dy, filters[r, s, ...])
        return crop(xp.permute_dims(dx, (0, 3, 1, 2)), geometry.input_shape, geometry.padding)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(x)
        xp = backend.xp
        x = backend.channels_last(pad(x, geometry.padding))
        dy = backend.channels_last(dy)
        _, c, kh, kw = geometry.weight_shape
        sums = [
            _sum_of_products(x[:, rows, columns, :], dy, geometry.groups)
            for _, _, rows, columns in taps(geometry)
        ]  # (G, C/G, K/G)
        dweight = xp.reshape(xp.stack(sums), (kh, kw, geometry.groups, c, geometry.k // geometry.groups))
        return xp.reshape(xp.permute_dims(dweight, (2, 4, 3, 0, 1)), geometry.weight_shape)


def _filters(weight: Array, groups: int) -> Array:
    """Return weight (K, C/G, kh, kw) as matrices (kh, kw, G, C/G, K/G)."""
    backend = backend_of(weight)
    k, c, kh, kw = weight.shape
    matrices = backend.xp.reshape(weight, (groups, k // groups, c, kh, kw))
    # Copied, so that each matrix is contiguous: it is multiplied with many times.
    return backend.copy(backend.xp.permute_dims(matrices, (3, 4, 0, 2, 1)))


def _transposed_filters(weight: Array, groups: int) -> Array:
    """Return weight (K, C/G, kh, kw) as matrices (kh, kw, G, K/G, C/G)."""
    backend = backend_of(weight)
    return backend.copy(backend.xp.matrix_transpose(_filters(weight, groups)))


def _product(pixels: Array, filters: Array) -> Array:
    """Return pixels (N, OH, OW, C) times filters (G, C/G, K/G), group by group: (N, OH, OW, K)."""
    xp = backend_of(pixels).xp
    groups, c, k = filters.shape
    if groups == 1:
        return pixels @ filters[0, ...]
    if c == k == 1:
        return pixels * xp.reshape(filters, (-1,))
    n, oh, ow, _ = pixels.shape
    grouped = xp.permute_dims(xp.reshape(pixels, (n, oh, ow, groups, c)), (0, 1, 3, 2, 4))
    return xp.reshape(xp.permute_dims(grouped @ filters, (0, 1, 3, 2, 4)), (n, oh, ow, groups * k))


def _sum_of_products(pixels: Array, dy: Array, groups: int) -> Array:
    """Return the filters' gradient (G, C/G, K/G) from pixels (N, OH, OW, C) and dy (N, OH, OW, K)."""
    xp = backend_of(dy).xp
    c, k = pixels.shape[-1] // groups, dy.shape[-1] // groups
    if groups > 1 and c == k == 1:
        return xp.reshape(xp.sum(pixels * dy, axis=(0, 1, 2)), (groups, 1, 1))
    count = math.prod(dy.shape[:3])
    left = xp.permute_dims(xp.reshape(pixels, (count, groups, c)), (1, 2, 0))
    return left @ xp.permute_dims(xp.reshape(dy, (count, groups, k)), (1, 0, 2))
