"""NVIDIA's cuDNN on CuPy arrays.

Source: Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014.
"""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import itemsize
from xpcnn.ops.conv._library import LibraryAlgorithm
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import register


@register("cudnn")
class Cudnn(LibraryAlgorithm):
    """cuDNN's fastest engine by its own heuristics whose scratch memory fits the limit.

    Arrays are taken as they lie in memory, channels-first or channels-last, and the result lies like the
    input. The workspace counts what may have to be copied: inputs that lie otherwise, and weights to match.
    Whatever the limit leaves is offered to cuDNN.
    """

    takes_half = True
    elsewhere = (
        "runs on CuPy arrays alone, and the arrays are on {backend}; "
        "use 'im2col' there, or 'native' with PyTorch"
    )

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        elements = (
            math.prod(geometry.input_shape)
            + math.prod(geometry.output_shape)
            + math.prod(geometry.weight_shape)
        )
        return elements * itemsize(dtype)
