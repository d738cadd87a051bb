"""PyTorch's own convolution, over channels-last memory. Imported only when it is used."""

from __future__ import annotations

from typing import Any

import torch

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.convolution import ConvParams, Shape, VendorConvolution

__all__ = ["TorchConvolution"]


class TorchConvolution(VendorConvolution):
    """``torch.nn.functional.conv2d`` and the two halves of its gradient.

    PyTorch cannot be told how much scratch memory to use, so `limit` is not looked at.
    """

    def forward(self, x: Array, weight: Array, y_shape: Shape, sizes: ConvParams, limit: int) -> Array:
        x, padding = _padded(x, sizes)
        y = torch.nn.functional.conv2d(
            x, _channels_last(weight), None, sizes.stride, padding, sizes.dilation, sizes.groups
        )
        return _channels_last(y)

    def grad_input(self, dy: Array, weight: Array, x_shape: Shape, sizes: ConvParams, limit: int) -> Array:
        n, c, h, w = x_shape
        padding, (top, left) = _own_padding(sizes, x_shape), (0, 0)
        if padding is None:
            top, bottom, left, right = sizes.padding
            padding, h, w = (0, 0), h + top + bottom, w + left + right
        # Only its shape and layout are looked at; an expanded number would be written out in full.
        x = dy.new_empty(n, h, w, c).permute(0, 3, 1, 2)
        dx = _gradients(_channels_last(dy), x, _channels_last(weight), sizes, padding, (True, False))[0]
        return _channels_last(dx[:, :, top : top + x_shape[2], left : left + x_shape[3]])

    def grad_weight(self, x: Array, dy: Array, weight_shape: Shape, sizes: ConvParams, limit: int) -> Array:
        x, padding = _padded(x, sizes)
        k, channels, kh, kw = weight_shape
        weight = x.new_empty(k, kh, kw, channels).permute(0, 3, 1, 2)  # for its shape and layout alone
        return _gradients(_channels_last(dy), x, weight, sizes, padding, (False, True))[1]


def _gradients(
    dy: Any, x: Any, weight: Any, sizes: ConvParams, padding: tuple[int, int], wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Return dx and dweight, as far as wanted."""
    # None and the last False: no bias. The other False: not transposed, with no output padding.
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        dy,
        x,
        weight,
        None,
        sizes.stride,
        padding,
        sizes.dilation,
        False,
        (0, 0),
        sizes.groups,
        (*wanted, False),
    )
    return dx, dweight


def _own_padding(sizes: ConvParams, x_shape: Shape) -> tuple[int, int] | None:
    """Return the padding as PyTorch takes it, or None: where opposite sides differ, or there is no image."""
    top, bottom, left, right = sizes.padding
    return (top, left) if top == bottom and left == right and min(x_shape[2:]) > 0 else None


def _padded(x: Any, sizes: ConvParams) -> tuple[Any, tuple[int, int]]:
    """Return x over channels-last memory, with zeros around it where PyTorch cannot add them itself."""
    padding = _own_padding(sizes, x.shape)
    if padding is not None:
        return _channels_last(x), padding
    n, c, h, w = x.shape
    top, bottom, left, right = sizes.padding
    y = x.new_zeros(n, h + top + bottom, w + left + right, c).permute(0, 3, 1, 2)
    y[:, :, top : top + h, left : left + w] = x
    return y, (0, 0)


def _channels_last(x: Any) -> Any:
    return x.contiguous(memory_format=torch.channels_last)
