"""Products of unfolded patches, written to their place in larger images; see `xpcnn.ops.conv.im2col`."""

from __future__ import annotations

from typing import Any, Final

from xpcnn.backend.host.convolution import place_for
from xpcnn.backend.host.memory import Array, is_served
from xpcnn.backend.host.products import multiply

__all__ = ["KERNELS"]


def patch_products(columns: Array, matrix: Array, geometry: Any, out: Array) -> Any:
    """Return y (N, K, OH, OW), patches (N·OH·OW, kh·kw·C) times a matrix (kh·kw·C, K)."""
    if not is_served(columns, matrix):
        return NotImplemented
    y, memory = place_for(geometry.output_shape, columns.dtype, out)
    multiply(columns, matrix, out=memory.reshape(len(columns), matrix.shape[1]))
    return y


KERNELS: Final = {"patch_products": patch_products}
