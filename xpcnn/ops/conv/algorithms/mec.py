"""Memory-efficient convolution: patches are unfolded along the width alone, one GEMM for each kernel row.

Source: Cho and Brand, "MEC: memory-efficient convolution for deep neural network", 2017.
"""

from __future__ import annotations

from collections.abc import Iterator

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.ops.conv._layout import crop, pad, padded_zeros, total
from xpcnn.ops.conv.algorithm import register
from xpcnn.ops.conv.correlation import CorrelatingAlgorithm
from xpcnn.ops.conv.executor import pack_weights
from xpcnn.ops.conv.geometry import ConvGeometry


@register("mec")
class Mec(CorrelatingAlgorithm):
    """Lower each image row to its windows, (H, N, OW, kw·C): kernel row r then meets a plain slice of rows.

    Memory: kw times the input instead of kh·kw times. With the image rows outermost, and a row stride of 1,
    each slice is one matrix in place for all images, without a copy.
    """

    weight_copies = 3

    def elements(self, geometry: ConvGeometry) -> int:
        n, k, oh, ow = geometry.output_shape
        height, width = geometry.padded_size
        image, windows = geometry.c * height * width, geometry.kernel[1] * geometry.c * ow
        rows = windows * oh if geometry.stride[0] > 1 else 0  # rows that are skipped are copied together
        unfolding = image + windows * height + rows + 2 * k * oh * ow
        folding = image + windows * (height + oh) + k * oh * ow
        return n * max(unfolding, folding)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        return mec_forward(x, pack_weights(_row_matrices, weight), geometry)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        xp = backend_of(x).xp
        dweight = xp.reshape(mec_grad_weight(x, dy, geometry), (*geometry.kernel, geometry.c, geometry.k))
        return xp.permute_dims(dweight, (3, 2, 0, 1))

    def fold(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(dy)
        xp = backend.xp
        n, c, (_, kw) = geometry.n, geometry.c, geometry.kernel
        (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
        (oh, ow), (height, _) = geometry.output_size, geometry.padded_size
        rows = _rows_outermost(dy)
        filters = xp.matrix_transpose(pack_weights(_row_matrices, weight))
        lowered = xp.zeros((height, n, ow, kw, c), dtype=dy.dtype, device=backend.device)
        for r in range(geometry.kernel[0]):
            met = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh)
            lowered[met, ...] += xp.reshape(rows @ filters[r, ...], (oh, n, ow, kw, c))
        dx = padded_zeros(dy, geometry.input_shape, geometry.padding)
        for s in range(kw):
            met = slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
            dx[:, :, :, met] += xp.permute_dims(lowered[:, :, :, s, :], (1, 3, 0, 2))
        return crop(dx, geometry.input_shape, geometry.padding)


@primitive
def mec_forward(x: Array, filters: Array, geometry: ConvGeometry) -> Array:
    """Return y (N, K, OH, OW), the filters being a matrix (kw·C, K) for each kernel row."""
    xp = backend_of(x).xp
    products = (rows @ filters[r, ...] for r, rows in enumerate(_row_slices(x, geometry)))
    n, k, oh, ow = geometry.output_shape
    y = xp.permute_dims(xp.reshape(total(products), (oh, n, ow, k)), (1, 3, 0, 2))
    return pad(y, (0, 0, 0, 0))  # the images outermost again


@primitive
def mec_grad_weight(x: Array, dy: Array, geometry: ConvGeometry) -> Array:
    """Return the gradient of those matrices, (kh, kw·C, K)."""
    xp = backend_of(x).xp
    rows_of_dy = _rows_outermost(dy)
    return xp.stack([xp.matrix_transpose(rows) @ rows_of_dy for rows in _row_slices(x, geometry)])


def _row_slices(x: Array, geometry: ConvGeometry) -> Iterator[Array]:
    """Yield, for each kernel row, the lowered image rows that it meets, as a matrix (OH·N·OW, kw·C)."""
    backend = backend_of(x)
    xp = backend.xp
    n, c, (kh, kw) = geometry.n, geometry.c, geometry.kernel
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    oh, ow = geometry.output_size
    height, _ = geometry.padded_size
    windows = backend.sliding_windows(pad(x, geometry.padding), (1, kw), (1, sw), (1, dw))
    # Copied once: a view would do until here, and be copied for every kernel row below.
    lowered = backend.copy(xp.permute_dims(windows, (2, 0, 3, 4, 5, 1)))
    lowered = xp.reshape(lowered, (height, n, ow, kw * c))
    for r in range(kh):
        rows = lowered[r * dh : r * dh + sh * (oh - 1) + 1 : sh, ...]
        yield xp.reshape(rows, (oh * n * ow, kw * c))


def _rows_outermost(dy: Array) -> Array:
    """Return dy (N, K, OH, OW) as the matrix (OH·N·OW, K) that goes with those of `_row_slices`."""
    n, k, oh, ow = dy.shape
    xp = backend_of(dy).xp
    return xp.reshape(xp.permute_dims(dy, (2, 0, 3, 1)), (oh * n * ow, k))


def _row_matrices(weight: Array) -> Array:
    """Return weight (K, C, kh, kw) as one matrix (kw·C, K) for each kernel row, (kh, kw·C, K)."""
    xp = backend_of(weight).xp
    k, c, kh, kw = weight.shape
    return xp.reshape(xp.permute_dims(weight, (2, 3, 1, 0)), (kh, kw * c, k))
