"""What a library's own convolution looks like to the ops: three passes over arrays of one backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from xpcnn.backend.arrays import Array

__all__ = ["ConvParams", "VendorConvolution"]

Shape = tuple[int, int, int, int]


class ConvParams(NamedTuple):
    """How a kernel moves over an image: all that the shapes of the arrays do not say.

    Attributes
    ----------
    stride, dilation : (height, width)
    padding : (top, bottom, left, right)
    groups : int
    """

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


class VendorConvolution(ABC):
    """A convolution that comes with a library.

    Of x (N, C, H, W) with weight (K, C/groups, kh, kw) to y (N, K, OH, OW). Every pass takes any strides, and
    ends with `limit`: the bytes of scratch memory it may ask for, where the library can be told.
    """

    def unsupported(self, dtype: Any) -> str | None:
        """Return why this cannot be used for arrays of `dtype`, or None."""
        return None

    @abstractmethod
    def forward(self, x: Array, weight: Array, y_shape: Shape, sizes: ConvParams, limit: int) -> Array:
        """Return y."""

    @abstractmethod
    def grad_input(self, dy: Array, weight: Array, x_shape: Shape, sizes: ConvParams, limit: int) -> Array:
        """Return the gradient for x, given the gradient for y."""

    @abstractmethod
    def grad_weight(self, x: Array, dy: Array, weight_shape: Shape, sizes: ConvParams, limit: int) -> Array:
        """Return the gradient for weight, given the gradient for y."""
