"""Convolutions of the array libraries themselves: PyTorch's own, and NVIDIA's cuDNN on CuPy arrays.

Source: Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014.
"""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import Array, Backend, backend_of, dtype_name, itemsize
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
    elsewhere: str

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        library = backend.convolutions.get(self.name)
        if library is None:
            return self.elsewhere.format(backend=backend)
        if geometry.c == 0:
            return "needs images that have channels; use 'im2col' for those without"
        return library.unsupported(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        return self._run("forward", x, weight, geometry)

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        return self._run("grad_input", dy, weight, geometry)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        return self._run("grad_weight", x, dy, geometry)

    def _run(self, pass_name: str, a: Array, b: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(a)
        run = getattr(backend.convolutions[self.name], pass_name)
        result: Array = run(a, b, geometry, workspace_limit(backend))
        return result


@register("native")
class Native(VendorConv):
    """PyTorch's own convolution: oneDNN on a CPU, cuDNN on a GPU.

    The workspace counts the copies made here, and PyTorch's own scratch on a CPU as far as it was measured.
    What it takes on a GPU cannot be bounded from outside.
    """

    elsewhere = (
        "is PyTorch's own convolution, and the arrays are on {backend}; "
        "use 'im2col' there, or 'cudnn' on a GPU with CuPy"
    )

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        height, width = geometry.padded_size
        padded = geometry.n * geometry.c * height * width
        elements = (
            padded  # x padded or relaid, or what stands for it in the backward pass
            + padded  # dx with its padding…
            - math.prod(geometry.input_shape)  # … of which this much is the result
            + math.prod(geometry.output_shape)  # dy relaid
            + 2 * math.prod(geometry.weight_shape)
        )
        if dtype_name(dtype) == "float64":
            # oneDNN has no float64: PyTorch unfolds the whole batch, one group after the other.
            patch = math.prod(geometry.weight_shape[1:])
            elements += geometry.n * geometry.oh * geometry.ow * patch
            elements += padded if geometry.groups > 1 else 0
        return elements * itemsize(dtype)


@register("cudnn")
class Cudnn(VendorConv):
    """cuDNN's fastest engine by its own heuristics whose scratch memory fits the limit.

    Arrays are taken in their own memory order, channels-first or channels-last, and the result has that of
    the input. The workspace counts what may have to be copied: inputs in other orders, and weights to match.
    Whatever the limit leaves is offered to cuDNN.
    """

    native_half = True
    elsewhere = (
        "runs on CuPy arrays alone, and the arrays are on {backend}; "
        "use 'im2col' there, or 'native' with PyTorch"
    )

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        shapes = geometry.input_shape, geometry.output_shape, geometry.weight_shape
        return sum(map(math.prod, shapes)) * itemsize(dtype)
