"""Convolutions that a library brings along, as algorithms: what `native` and `cudnn` share."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, Backend, backend_of
from xpcnn.backend.convolution import ConvSizes, LibraryConvolution
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm
from xpcnn.ops.conv.workspace import workspace_limit

__all__ = ["LibraryAlgorithm"]


class LibraryAlgorithm(ConvAlgorithm):
    """The convolution that the backend lists under this algorithm's name.

    Attributes
    ----------
    elsewhere : str
        What to say on backends that have no such convolution.
    """

    takes_groups = True
    elsewhere: str

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        library = backend.convolutions.get(self.name)
        if library is None:
            return self.elsewhere.format(backend=backend)
        return library.unsupported(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        library, sizes, limit = self._found(x, geometry)
        return library.forward(x, weight, geometry.output_shape, sizes, limit)

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        library, sizes, limit = self._found(dy, geometry)
        return library.grad_input(dy, weight, geometry.input_shape, sizes, limit)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        library, sizes, limit = self._found(x, geometry)
        return library.grad_weight(x, dy, geometry.weight_shape, sizes, limit)

    def _found(self, array: Array, geometry: ConvGeometry) -> tuple[LibraryConvolution, ConvSizes, int]:
        backend = backend_of(array)
        sizes = ConvSizes(geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        return backend.convolutions[self.name], sizes, workspace_limit(backend)
