"""PyTorch's own convolution, over channels-last memory. Imported only when it is used."""

from __future__ import annotations

import math
from typing import Any

import torch

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.arrays import dtype_name, itemsize

__all__ = ["TorchConvolution"]


class TorchConvolution:
    """``torch.nn.functional.conv2d`` and the two halves of its gradient.

    PyTorch cannot be told how much scratch memory to use, so `limit` is not looked at.
    """

    fuses_epilogue = accepts_out = False

    def unsupported(self, geometry: Any, dtype: Any) -> str | None:
        return None

    def workspace_bytes(self, geometry: Any, dtype: Any) -> int:
        """Return the bytes of the copies made here, and of PyTorch's own scratch as far as it was measured.

        What it takes on a GPU cannot be bounded from outside.
        """
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
        return int(elements) * itemsize(dtype)

    def forward(self, x: Array, weight: Array, geometry: Any, limit: int) -> Array:
        x, padding = _padded(x, geometry)
        sizes = geometry.stride, padding, geometry.dilation, geometry.groups
        return _channels_last(torch.nn.functional.conv2d(x, _channels_last(weight), None, *sizes))

    def grad_input(self, dy: Array, weight: Array, geometry: Any, limit: int) -> Array:
        padding, (h, w), (top, left) = _own_padding(geometry), (geometry.h, geometry.w), (0, 0)
        if padding is None:
            padding, (h, w), (top, _, left, _) = (0, 0), geometry.padded_size, geometry.padding
        # Only its shape and layout are looked at; an expanded number would be written out in full.
        x = dy.new_empty(geometry.n, h, w, geometry.c).permute(0, 3, 1, 2)
        dx = _gradients(dy, x, _channels_last(weight), geometry, padding, (True, False, False))[0]
        return _channels_last(dx[:, :, top : top + geometry.h, left : left + geometry.w])

    def grad_weight(self, x: Array, dy: Array, geometry: Any, limit: int) -> Array:
        x, padding = _padded(x, geometry)
        k, channels, kh, kw = geometry.weight_shape
        weight = x.new_empty(k, kh, kw, channels).permute(0, 3, 1, 2)  # likewise
        return _gradients(dy, x, weight, geometry, padding, (False, True, False))[1]


def _gradients(
    dy: Any, x: Any, weight: Any, geometry: Any, padding: tuple[int, int], wanted: tuple[bool, ...]
) -> Any:
    """Return dx, dweight and dbias, as far as wanted."""
    sizes = geometry.stride, padding, geometry.dilation
    # No bias; not transposed, so that there is no padding of the output.
    options = (None, *sizes, False, (0, 0), geometry.groups, wanted)
    return torch.ops.aten.convolution_backward(_channels_last(dy), x, weight, *options)


def _own_padding(geometry: Any) -> tuple[int, int] | None:
    """Return the padding as PyTorch takes it, or None: where opposite sides differ, or there is no image."""
    top, bottom, left, right = geometry.padding
    return (top, left) if top == bottom and left == right and min(geometry.h, geometry.w) > 0 else None


def _padded(x: Any, geometry: Any) -> tuple[Any, tuple[int, int]]:
    """Return x over channels-last memory, with zeros around it where PyTorch cannot add them itself."""
    padding = _own_padding(geometry)
    if padding is not None:
        return _channels_last(x), padding
    n, c, h, w = x.shape
    top, _, left, _ = geometry.padding
    y = x.new_zeros(n, *geometry.padded_size, c).permute(0, 3, 1, 2)
    y[:, :, top : top + h, left : left + w] = x
    return y, (0, 0)


def _channels_last(x: Any) -> Any:
    return x.contiguous(memory_format=torch.channels_last)
