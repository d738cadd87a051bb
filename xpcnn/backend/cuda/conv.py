"""Unfolding, folding and the bias of convolutions: the wrappers of ``conv.cu``."""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np

from xpcnn.backend.base import Array
from xpcnn.backend.cuda.arrays import (
    element_strides,
    empty,
    empty_images,
    full_width,
    storage_of,
    vector_width,
)
from xpcnn.backend.cuda.launch import divider, index_type, launch, record
from xpcnn.backend.cuda.source import STORAGE, Family
from xpcnn.backend.windows import window_count

__all__ = ["FAMILY", "KERNELS"]

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Shape = tuple[int, int, int, int]


def _instantiations() -> tuple[str, ...]:
    names: list[str] = []
    for dtype, storage in STORAGE.items():
        # Vectors are counted in 32 bits alone: 2³¹ of them are 32 GiB.
        for width, index in ((1, "unsigned"), (1, "long long"), (full_width(dtype), "unsigned")):
            names += (f"{name}<{storage}, {width}, {index}>" for name in ("unfold", "fold"))
            names += (f"add_bias<{storage}, {width}, {relu}, {index}>" for relu in ("false", "true"))
        for index in ("unsigned", "long long"):
            names += (f"{name}<{storage}, {index}>" for name in ("unfold_classical", "fold_classical"))
    return tuple(names)


FAMILY: Final = Family("conv", _instantiations())


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Return the columns (N·OH·OW, kh·kw·C) of x (N, C, H, W), whatever its strides."""
    storage = storage_of(x)
    if storage is None:
        return NotImplemented
    columns = _empty_columns(x, kernel, stride, padding, dilation)
    width = vector_width(1, x)
    patches = _patches(x.shape, element_strides(x), (0, 0), kernel, stride, padding, dilation, width)
    count = columns.size // width
    launch(FAMILY, f"unfold<{storage}, {width}, {index_type(count)}>", count, x, columns, patches)
    return columns


def unfold_classical(x: Array, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Return the columns (N·OH·OW, C·kh·kw) of x (N, C, H, W), whatever its strides."""
    storage = storage_of(x)
    if storage is None:
        return NotImplemented
    columns = _empty_columns(x, kernel, stride, padding, dilation)
    patches = _patches(x.shape, element_strides(x), (0, 0), kernel, stride, padding, dilation, 1)
    count = columns.size
    launch(FAMILY, f"unfold_classical<{storage}, {index_type(count)}>", count, x, columns, patches)
    return columns


def fold(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, kh·kw·C) of any strides, summed where patches overlap: (N, C, H, W)."""
    storage = storage_of(columns)
    if storage is None:
        return NotImplemented
    x = empty_images(columns, input_shape)
    width, strides = vector_width(1, x, columns), element_strides(columns)
    patches = _patches(input_shape, (0, 0, 0, 0), strides, kernel, stride, padding, dilation, width)
    count = x.size // width
    launch(FAMILY, f"fold<{storage}, {width}, {index_type(count)}>", count, columns, x, patches)
    return x


def fold_classical(
    columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair
) -> Array:
    """Return columns (N·OH·OW, C·kh·kw) of any strides, summed where patches overlap: (N, C, H, W)."""
    storage = storage_of(columns)
    if storage is None:
        return NotImplemented
    x = empty_images(columns, input_shape)
    strides = element_strides(columns)
    patches = _patches(input_shape, (0, 0, 0, 0), strides, kernel, stride, padding, dilation, 1)
    count = x.size
    launch(FAMILY, f"fold_classical<{storage}, {index_type(count)}>", count, columns, x, patches)
    return x


def add_bias(y: Array, bias: Array) -> Array:
    """Add bias (K,) to y (N, K, OH, OW), in place."""
    return _add_bias(y, bias, "false")


def add_bias_relu(y: Array, bias: Array) -> Array:
    """Add bias (K,) to y (N, K, OH, OW) and cut negative sums to 0, in place."""
    return _add_bias(y, bias, "true")


def _add_bias(y: Array, bias: Array, relu: str) -> Array:
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
    count = y.size // width
    name = f"add_bias<{storage}, {width}, {relu}, {index_type(count)}>"
    if count:
        launch(FAMILY, name, count, y, bias, record(*divider(inner)), record(*divider(k // width)))
    return y


def _empty_columns(x: Array, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    n, c, h, w = x.shape
    oh, ow = _output_size((h, w), kernel, stride, padding, dilation)
    return empty(x, (n * oh * ow, c * math.prod(kernel)))


def _output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Pair:
    padded = (size[0] + padding[0] + padding[1], size[1] + padding[2] + padding[3])
    oh, ow = (window_count(*axis) for axis in zip(padded, kernel, stride, dilation, strict=True))
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
