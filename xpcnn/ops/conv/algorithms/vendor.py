"""Convolutions of the array libraries themselves, and the compiled kernels on NumPy's arrays.

Source of cuDNN: Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, Self

from xpcnn.backend import Backend
from xpcnn.ops.conv.algorithm import PASSES, ConvAlgorithm, register
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

    def on(self, backend: Backend) -> Self:
        bound, library = copy.copy(self), backend.convolutions.get(self.name)
        if library is not None:
            limit = workspace_limit(backend)
            passes = {name: partial(getattr(library, name), limit=limit) for name in PASSES}
            vars(bound).update(
                passes, workspace_bytes=library.workspace_bytes, accepts_out=library.accepts_out
            )
            bound.fuses_epilogue = library.fuses_epilogue
            if library.fuses_epilogue:
                vars(bound).update(forward_epilogue=library.forward_epilogue)  # type: ignore[attr-defined]
        return bound

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        library = backend.convolutions.get(self.name)
        if library is None:
            return self.elsewhere.format(backend=backend)
        if geometry.c == 0:
            return "needs images that have channels; use 'im2col' for those without"
        return library.unsupported(geometry, dtype)

    def _unbound(self, *arguments: Any) -> Any:
        raise NotImplementedError(f"{self.name!r} computes on a backend; call `on(backend)` first")

    workspace_bytes = forward = grad_input = grad_weight = _unbound  # type: ignore[assignment]


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
