"""The gradient of the input at stride 1: a convolution of dy with the rotated weight, over all it reaches."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any

from xpcnn.backend import Array, backend_of, itemsize
from xpcnn.ops.conv.algorithm import ConvAlgorithm
from xpcnn.ops.conv.executor import pack_weights
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = ["CorrelatingAlgorithm", "correlation_geometry", "full_correlation", "is_framed"]


class CorrelatingAlgorithm(ConvAlgorithm):
    """An algorithm that computes dx as a correlation by its `forward` where that is better than folding.

    Attributes
    ----------
    weight_copies : int
        How many times the numbers of the weight its passes hold beside `elements`.
    """

    weight_copies = 2

    def elements(self, geometry: ConvGeometry) -> int:
        """Return the numbers of scratch memory beside the weights: of the unfolded patches, at most."""
        images = geometry.c * prod(geometry.padded_size)  # the padded input, or its gradient
        patches = prod(geometry.output_size) * (geometry.c * prod(geometry.kernel) + geometry.k)
        return geometry.n * (images + patches)

    @abstractmethod
    def fold(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return dx (N, C, H, W), by summing up what overlaps."""

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        elements = self.elements(geometry)
        if _correlates(geometry):
            elements = max(elements, self.elements(correlation_geometry(geometry)))
        return (elements + self.weight_copies * prod(geometry.weight_shape)) * itemsize(dtype)

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        if _correlates(geometry):
            return full_correlation(self.forward, dy, weight, geometry)
        return self.fold(dy, weight, geometry)


def _correlates(geometry: ConvGeometry) -> bool:
    """Whether dx is better computed as a convolution of dy than by folding columns.

    Folding reads and writes each column several times over; unfolding dy writes its columns once, but there
    are K of them for each tap instead of C.
    """
    plain = geometry.stride == (1, 1) and geometry.groups == 1 and is_framed(geometry)
    return plain and geometry.kernel != (1, 1) and geometry.k <= 2 * geometry.c


def is_framed(geometry: ConvGeometry) -> bool:
    """Whether every output pixel sees a pixel of x, so that `full_correlation` applies."""
    return min(_frame(geometry)) >= 0


def _frame(geometry: ConvGeometry) -> tuple[int, int, int, int]:
    """Return the padding of dy with which its border pixels are met by all taps."""
    top, bottom, left, right = geometry.padding
    rows, columns = (d * (size - 1) for d, size in zip(geometry.dilation, geometry.kernel, strict=True))
    return rows - top, rows - bottom, columns - left, columns - right


def full_correlation(
    forward: Callable[[Array, Array, ConvGeometry], Array], dy: Array, weight: Array, geometry: ConvGeometry
) -> Array:
    """Return dx (N, C, H, W) of a convolution with stride 1, computed by an algorithm's `forward`.

    Input pixel h meets tap r in output pixel ``h + top − r·dilation``: seen from dx, the taps come in reverse
    order, input and output channels change places, and dy is framed so that its border pixels are met by all
    taps too.
    """
    return forward(dy, pack_weights(_rotate, weight), correlation_geometry(geometry))


@functools.lru_cache(maxsize=1024)
def correlation_geometry(geometry: ConvGeometry) -> ConvGeometry:
    """Return the geometry of the convolution that `full_correlation` is."""
    weight_shape = (geometry.c, geometry.k, *geometry.kernel)
    return ConvGeometry(
        geometry.output_shape, weight_shape, padding=_frame(geometry), dilation=geometry.dilation
    )


def _rotate(weight: Array) -> Array:
    """Return weight (K, C, kh, kw) as (C, K, kh, kw), turned by half a circle."""
    xp = backend_of(weight).xp
    return xp.flip(xp.permute_dims(weight, (1, 0, 2, 3)), axis=(2, 3))
