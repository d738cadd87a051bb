"""What a library's own convolution looks like to the ops: three passes over arrays of one backend."""

from __future__ import annotations

from typing import Any, Protocol

from xpcnn.backend.arrays import Array

__all__ = ["VendorConvolution"]


class VendorConvolution(Protocol):
    """A convolution that comes with a library.

    Of x (N, C, H, W) with weight (K, C/groups, kh, kw) to y (N, K, OH, OW). Every pass takes any strides, a
    `ConvGeometry`, and the bytes of scratch memory it may ask for, where the library can be told.
    """

    accepts_out: bool
    """Whether `forward` and `grad_input` take a fourth argument, a place for the result."""

    fuses_epilogue: bool
    """Whether there is ``forward_epilogue(x, weight, geometry, epilogue)``, of bias, ReLU, pooling."""

    def unsupported(self, geometry: Any, dtype: Any) -> str | None:
        """Return why this cannot be used for arrays of `dtype`, or None."""

    def workspace_bytes(self, geometry: Any, dtype: Any) -> int:
        """Return the scratch memory of the pass that needs the most, as far as it is known."""

    def forward(self, x: Array, weight: Array, geometry: Any, *, limit: int) -> Array:
        """Return y."""

    def grad_input(self, dy: Array, weight: Array, geometry: Any, *, limit: int) -> Array:
        """Return the gradient for x, given the gradient for y."""

    def grad_weight(self, x: Array, dy: Array, geometry: Any, *, limit: int) -> Array:
        """Return the gradient for weight, given the gradient for y."""
