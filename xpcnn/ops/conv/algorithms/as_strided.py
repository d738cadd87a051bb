"""Convolution as one contraction of the strided view of all patches.

The view (N, C, OH, OW, kh, kw) costs no memory where the library has strides. What the contraction
does with it is the library's affair: NumPy, CuPy and PyTorch copy it into a matrix before their GEMM,
so the columns of `im2col` exist for a moment all the same, and are counted in the workspace.
"""

from __future__ import annotations

from xpcnn.backend import Array, backend_of
from xpcnn.ops.conv._layout import pad
from xpcnn.ops.conv.algorithm import register
from xpcnn.ops.conv.algorithms.im2col import sum_patches
from xpcnn.ops.conv.correlation import CorrelatingAlgorithm
from xpcnn.ops.conv.geometry import ConvGeometry


@register("as_strided")
class AsStrided(CorrelatingAlgorithm):
    """Contract y or the weight with a view of the patches."""

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        xp = backend_of(x).xp
        y = xp.tensordot(_windows(x, geometry), weight, axes=((4, 5, 1), (2, 3, 1)))  # (N, OH, OW, K)
        return xp.permute_dims(y, (0, 3, 1, 2))

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        xp = backend_of(x).xp
        windows = xp.permute_dims(_windows(x, geometry), (0, 2, 3, 4, 5, 1))
        dweight = xp.tensordot(dy, windows, axes=((0, 2, 3), (0, 1, 2)))  # (K, kh, kw, C)
        return xp.permute_dims(dweight, (0, 3, 1, 2))

    def fold(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        xp = backend_of(dy).xp
        patches = xp.tensordot(dy, weight, axes=((1,), (0,)))  # (N, OH, OW, C, kh, kw)
        return sum_patches(xp.permute_dims(patches, (0, 3, 1, 2, 4, 5)), geometry)


def _windows(x: Array, geometry: ConvGeometry) -> Array:
    """Return the patches of x, (N, C, OH, OW, kh, kw)."""
    sizes = geometry.kernel, geometry.stride, geometry.dilation
    return backend_of(x).sliding_windows(pad(x, geometry.padding), *sizes)
