"""Unfolding, folding and the bias of convolutions: the wrappers of ``conv.cu``."""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.cuda.arrays import element_strides, empty, empty_images, storage_of, vector_width
from xpcnn.backend.cuda.launch import divider, launch, record, sized
from xpcnn.backend.cuda.source import STORAGE, Family, expressions, vectored
from xpcnn.backend.windows import window_count

__all__ = ["FAMILY", "KERNELS"]

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Shape = tuple[int, int, int, int]

_INDICES: Final = ("unsigned", "long long")

FAMILY: Final = Family(
    "conv",
    (
        *(kernel for name in ("unfold", "fold") for kernel in vectored(name)),
        *(kernel for relu in ("false", "true") for kernel in vectored("add_bias", relu)),
        *expressions("unfold_classical", STORAGE.values(), _INDICES),
        *expressions("fold_classical", STORAGE.values(), _INDICES),
    ),
)


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Return the columns (N·OH·OW, kh·kw·C) of x (N, C, H, W), whatever its strides."""
    return _unfold("unfold", x, kernel, stride, padding, dilation)


def unfold_classical(x: Array, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Return the columns (N·OH·OW, C·kh·kw) of x (N, C, H, W), whatever its strides."""
    return _unfold("unfold_classical", x, kernel, stride, padding, dilation)


def _unfold(name: str, x: Array, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    storage = storage_of(x)
    if storage is None:
        return NotImplemented
    width = vector_width(1, x) if name == "unfold" else None
    n, c, h, w = x.shape
    oh, ow = _output_size((h, w), kernel, stride, padding, dilation)
    columns = empty(x, (n * oh * ow, c * math.prod(kernel)))
    patches = _patches(x.shape, element_strides(x), (0, 0), kernel, stride, padding, dilation, width or 1)
    count, kernel_name = sized(name, storage, columns, width)
    launch(FAMILY, kernel_name, count, x, columns, patches)
    return columns


def fold(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, kh·kw·C) of any strides, summed where patches overlap: (N, C, H, W)."""
    return _fold("fold", columns, input_shape, kernel, stride, padding, dilation)


def fold_classical(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, C·kh·kw) of any strides, summed where patches overlap: (N, C, H, W)."""
    return _fold("fold_classical", columns, input_shape, kernel, stride, padding, dilation)


def _fold(name: str, columns: Array, input_shape: Shape, *windows: Pair | Pads) -> Array:
    storage = storage_of(columns)
    if storage is None:
        return NotImplemented
    x = empty_images(columns, input_shape)
    width = vector_width(1, x, columns) if name == "fold" else None
    patches = _patches(input_shape, (0, 0, 0, 0), element_strides(columns), *windows, width or 1)
    count, kernel = sized(name, storage, x, width)
    launch(FAMILY, kernel, count, columns, x, patches)
    return x


def add_bias(y: Array, bias: Array, relu: str = "false") -> Array:
    """Add bias (K,) to y (N, K, OH, OW), in place."""
    storage = storage_of(y, bias)
    _, k, h, w = y.shape
    if storage is None or element_strides(bias) != (1,):
        return NotImplemented
    if y.transpose(0, 2, 3, 1).flags.c_contiguous:
        inner, width = 1, min(vector_width(1, y), vector_width(0, bias))
    elif y.flags.c_contiguous:
        inner, width = h * w, 1
    else:
        return NotImplemented
    count, kernel = sized("add_bias", storage, y, width, relu)
    launch(
        FAMILY, kernel, count, y, bias, record(*divider(max(inner, 1))), record(*divider(max(k // width, 1)))
    )
    return y


def add_bias_relu(y: Array, bias: Array) -> Array:
    """Add bias (K,) to y (N, K, OH, OW) and cut negative sums to 0, in place."""
    return add_bias(y, bias, "true")


def _output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Pair:
    padded = (size[0] + padding[0] + padding[1], size[1] + padding[2] + padding[3])
    oh, ow = map(window_count, padded, kernel, stride, dilation)
    return oh, ow


@functools.lru_cache(maxsize=1024)
def _patches(
    shape: Shape,
    x_strides: tuple[int, ...],
    columns_strides: tuple[int, ...],
    kernel: Pair,
    stride: Pair,
    padding: Pads,
    dilation: Pair,
    width: int,
) -> np.ndarray:
    """Return the struct ``Patches``."""
    _, c, h, w = shape
    sizes = (c // width, *kernel, *_output_size((h, w), kernel, stride, padding, dilation), h, w, *stride)
    dividers = (field for size in sizes for field in divider(max(size, 1)))
    return record(*dividers, padding[0], padding[2], *dilation, *x_strides, *columns_strides)


KERNELS: Final = {
    function.__name__: function
    for function in (unfold, unfold_classical, fold, fold_classical, add_bias, add_bias_relu)
}
