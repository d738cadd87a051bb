"""The convolution of the array library itself, where it has one: PyTorch."""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import dtype_name, itemsize
from xpcnn.ops.conv._library import LibraryAlgorithm
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import register


@register("native")
class Native(LibraryAlgorithm):
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
