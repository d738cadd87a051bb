"""The gradient of the input at stride 1: a convolution of dy with the rotated weight, over all it reaches."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from xpcnn.backend import Array, backend_of, itemsize
from xpcnn.ops.conv.algorithm import ConvAlgorithm
from xpcnn.ops.conv.executor import pack_weights
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = ["CorrelatingAlgorithm", "correlation_geometry", "full_correlation"]


class CorrelatingAlgorithm(ConvAlgorithm):
    """An algorithm that computes dx as a correlation by its `forward` where that is better than folding.

    Attributes
    ----------
    weight_copies : int
        How many times the numbers of the weight its passes hold beside `elements`.
    """

    weight_copies = 2

    @abstractmethod
    def elements(self, geometry: ConvGeometry) -> int:
        """Return the numbers of scratch memory beside the weights."""

    @abstractmethod
    def fold(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return dx (N, C, H, W), by summing up what overlaps."""

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        elements = self.elements(geometry)
        if _correlates(geometry):
            elements = max(elements, self.elements(correlation_geometry(geometry)))
        return (elements + self.weight_copies * prod(geometry.weight_shape)) * itemsize(dtype)

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry, out: Array | None = None) -> Array:
        if not _correlates(geometry):
            return self.fold(dy, weight, geometry)
        forward: Callable[..., Array] = self.forward
        if self.accepts_out:
            forward = partial(forward, out=out)
        return full_correlation(forward, dy, weight, geometry)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        return self.finish_grad_weight(self.grad_weight_partial(x, dy, geometry), geometry)


def _correlates(geometry: ConvGeometry) -> bool:
    """Whether dx is better computed as a convolution of dy than by folding columns.

    Folding reads and writes each column several times over; unfolding dy writes its columns once, but there
    are K of them for each tap instead of C.
    """
    plain = geometry.stride == (1, 1) and geometry.groups == 1
    return plain and geometry.kernel != (1, 1) and geometry.k <= 2 * geometry.c


def full_correlation(
    forward: Callable[[Array, Array, ConvGeometry], Array], dy: Array, weight: Array, geometry: ConvGeometry
) -> Array:
    """Return dx (N, C, H, W) of a convolution with stride 1, computed by an algorithm's `forward`.

    Input pixel h meets tap r in output pixel ``h + top − r·dilation``: seen from dx, the taps come in reverse
    order, input and output channels change places, and dy is framed so that its border pixels are met by all
    taps too.
    """
    return forward(dy[_seen(geometry)], pack_weights(_rotate, weight), correlation_geometry(geometry))


@functools.lru_cache(maxsize=1024)
def correlation_geometry(geometry: ConvGeometry) -> ConvGeometry:
    """Return the geometry of the convolution that `full_correlation` is."""
    n, k, oh, ow = geometry.output_shape
    (top, bottom), (left, right) = _frame(geometry)
    # Output pixels that see nothing but padding are left out: a negative frame.
    seen = (oh + min(top, 0) + min(bottom, 0), ow + min(left, 0) + min(right, 0))
    return ConvGeometry(
        (n, k, *seen),
        (geometry.c, k, *geometry.kernel),
        padding=(max(top, 0), max(bottom, 0), max(left, 0), max(right, 0)),
        dilation=geometry.dilation,
    )


def _frame(geometry: ConvGeometry) -> tuple[tuple[int, int], tuple[int, int]]:
    top, bottom, left, right = geometry.padding
    (kh, kw), (dh, dw) = geometry.kernel, geometry.dilation
    rows, columns = dh * (kh - 1), dw * (kw - 1)
    return (rows - top, rows - bottom), (columns - left, columns - right)


@functools.lru_cache(maxsize=1024)
def _seen(geometry: ConvGeometry) -> tuple[slice, ...]:
    """Return where the output pixels are that see more than padding."""
    rows, columns = (_kept(*axis) for axis in zip(_frame(geometry), geometry.output_size, strict=True))
    return slice(None), slice(None), rows, columns


def _kept(frame: tuple[int, int], size: int) -> slice:
    return slice(max(0, -frame[0]), size - max(0, -frame[1]))


def _rotate(weight: Array) -> Array:
    """Return weight (K, C, kh, kw) as (C, K, kh, kw), turned by half a circle."""
    xp = backend_of(weight).xp
    return xp.flip(xp.permute_dims(weight, (1, 0, 2, 3)), axis=(2, 3))
