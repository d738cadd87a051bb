"""Convolutions of the array libraries themselves, and the compiled kernels on NumPy's arrays.

Source of cuDNN: Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014.
"""

from __future__ import annotations

import copy
from typing import Any, Self

from xpcnn.backend import Array, Backend
from xpcnn.backend.convolution import VendorConvolution
from xpcnn.ops.conv.algorithm import ConvAlgorithm, register
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.plan import workspace_limit

__all__ = ["Cudnn", "Native", "VendorConv"]


class VendorConv(ConvAlgorithm):
    """The convolution that the backend lists under this algorithm's name.

    Attributes
    ----------
    elsewhere : str
        What to say on backends that have no such convolution.
    """

    native_groups = True
    cache_blocked = False
    elsewhere: str
    _library: VendorConvolution
    _limit: int

    def on(self, backend: Backend) -> Self:
        bound = copy.copy(self)
        library = backend.convolutions.get(self.name)
        if library is not None:
            bound._library, bound._limit = library, workspace_limit(backend)
            bound.fuses_epilogue, bound.accepts_out = library.fuses_epilogue, library.accepts_out
        return bound

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        library = backend.convolutions.get(self.name)
        if library is None:
            return self.elsewhere.format(backend=backend)
        if geometry.c == 0:
            return "needs images that have channels; use 'im2col' for those without"
        return library.unsupported(geometry, dtype)

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        return self._library.workspace_bytes(geometry, dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry, *out: Array | None) -> Array:
        return self._library.forward(x, weight, geometry, self._limit, *out)

    def forward_epilogue(self, x: Array, weight: Array, geometry: ConvGeometry, epilogue: Any) -> Array:
        result: Array = self._library.forward_epilogue(x, weight, geometry, epilogue)  # type: ignore[attr-defined]
        return result

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry, *out: Array | None) -> Array:
        return self._library.grad_input(dy, weight, geometry, self._limit, *out)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        return self._library.grad_weight(x, dy, geometry, self._limit)


@register("native")
class Native(VendorConv):
    """The backend's own convolution: xpcnn's compiled kernels on NumPy, PyTorch's on tensors."""

    elsewhere = (
        "is for NumPy's arrays and PyTorch's, and the arrays are on {backend}; "
        "use 'im2col' there, or 'cudnn' on a GPU with CuPy"
    )


@register("cudnn")
class Cudnn(VendorConv):
    """cuDNN's fastest engine by its own heuristics whose scratch memory fits the limit.

    Arrays are taken in their own memory order, channels-first or channels-last, and the result has that of
    the input. Whatever the limit leaves is offered to cuDNN.
    """

    native_half = True
    elsewhere = (
        "runs on CuPy arrays alone, and the arrays are on {backend}; "
        "use 'im2col' there, or 'native' with PyTorch"
    )
