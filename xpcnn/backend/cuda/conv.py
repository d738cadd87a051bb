"""Unfolding, folding and the bias of convolutions: the wrappers of ``conv.cu``."""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.cuda.arrays import element_strides, empty, empty_images, storage_of, vector_width
from xpcnn.backend.cuda.launch import dividers, launch, record, sized
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


def _unfold(name: str, x: Array, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Return the columns of x (N, C, H, W) of any strides: (N·OH·OW, kh·kw·C), or in classical order."""
    storage = storage_of(x)
    if storage is None:
        return NotImplemented
    width = vector_width(1, x) if name == "unfold" else None
    n, c, h, w = x.shape
    oh, ow = _output_size((h, w), kernel, stride, padding, dilation)
    columns = empty(x, (n * oh * ow, c * math.prod(kernel)))
    patches = _patches(x.shape, element_strides(x), (0, 0), kernel, stride, padding, dilation, width or 1)
    launch(FAMILY, *sized(name, storage, columns, width), x, columns, patches)
    return columns


def _fold(
    name: str, columns: Array, input_shape: Shape, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair
) -> Array:
    """Return columns of any strides, summed where patches overlap: (N, C, H, W)."""
    storage = storage_of(columns)
    if storage is None:
        return NotImplemented
    x, strides = empty_images(columns, input_shape), element_strides(columns)
    width = vector_width(1, x, columns) if name == "fold" else None
    patches = _patches(input_shape, (0, 0, 0, 0), strides, kernel, stride, padding, dilation, width or 1)
    launch(FAMILY, *sized(name, storage, x, width), columns, x, patches)
    return x


def _add_bias(relu: str, y: Array, bias: Array) -> Array:
    """Add bias (K,) to y (N, K, OH, OW), in place; with `relu`, cut negative sums to 0."""
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
    of = [record(*dividers(size)) for size in (inner, k // width)]
    launch(FAMILY, *sized("add_bias", storage, y, width, relu), y, bias, *of)
    return y


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
    return record(*dividers(*sizes), padding[0], padding[2], *dilation, *x_strides, *columns_strides)


KERNELS: Final = {
    **{name: functools.partial(_unfold, name) for name in ("unfold", "unfold_classical")},
    **{name: functools.partial(_fold, name) for name in ("fold", "fold_classical")},
    "add_bias": functools.partial(_add_bias, "false"),
    "add_bias_relu": functools.partial(_add_bias, "true"),
}
