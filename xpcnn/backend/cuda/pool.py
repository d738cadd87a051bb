"""Maxima and means over windows, and their gradients: the wrappers of ``pool.cu``."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from xpcnn.backend.base import Array
from xpcnn.backend.cuda.arrays import element_strides, empty_images, full_width, storage_of, vector_width
from xpcnn.backend.cuda.launch import divider, index_type, launch, record
from xpcnn.backend.cuda.source import STORAGE, Family

__all__ = ["FAMILY", "KERNELS"]

Pair = tuple[int, int]
Windows = tuple[Pair, Pair, Pair]
Shape = tuple[int, int, int, int]
Strides = tuple[int, ...]

_ABSENT: Final = (0, 0, 0, 0)

_NAMES: Final = ("max_pool_windows", "max_pool_scatter", "avg_pool_windows", "avg_pool_scatter")

FAMILY: Final = Family(
    "pool",
    tuple(
        f"{name}<{storage}, {width}, {index}>"
        for name in _NAMES
        for dtype, storage in STORAGE.items()
        for width, index in ((1, "unsigned"), (1, "long long"), (full_width(dtype), "unsigned"))
    ),
)


def max_pool_windows(x: Array, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair) -> Array:
    """Return the maxima of x (N, C, H, W), whatever its strides: (N, C, OH, OW), channels-last."""
    return _windows("max_pool_windows", x, output_size, (kernel, stride, padding), False)


def avg_pool_windows(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair, count_include_pad: bool
) -> Array:
    """Return the means of x (N, C, H, W), whatever its strides: (N, C, OH, OW), channels-last."""
    return _windows("avg_pool_windows", x, output_size, (kernel, stride, padding), count_include_pad)


def max_pool_scatter(dy: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Return dx (N, C, H, W), channels-last; dy, x and y may have any strides."""
    return _scatter(
        "max_pool_scatter", {"dy": dy, "x": x, "y": y}, x.shape[2:], (kernel, stride, padding), False
    )


def avg_pool_scatter(
    dy: Array, input_size: Pair, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool
) -> Array:
    """Return dx (N, C, *input_size), channels-last; dy may have any strides."""
    return _scatter("avg_pool_scatter", {"dy": dy}, input_size, (kernel, stride, padding), count_include_pad)


def _windows(name: str, x: Array, output_size: Pair, windows: Windows, include_pad: bool) -> Array:
    storage = storage_of(x)
    if storage is None:
        return NotImplemented
    y = empty_images(x, (*x.shape[:2], *output_size))
    width, count, kernel = _plan(name, storage, y, x)
    pooling = _pooling(width, x.shape, output_size, windows, include_pad, x=element_strides(x))
    launch(FAMILY, kernel, count, x, y, pooling)
    return y


def _scatter(
    name: str, given: dict[str, Array], input_size: Pair, windows: Windows, include_pad: bool
) -> Array:
    storage = storage_of(*given.values())
    if storage is None:
        return NotImplemented
    dy = given["dy"]
    dx = empty_images(dy, (*dy.shape[:2], *input_size))
    width, count, kernel = _plan(name, storage, dx, *given.values())
    strides = {name: element_strides(array) for name, array in given.items()}
    pooling = _pooling(width, dx.shape, dy.shape[2:], windows, include_pad, **strides)
    launch(FAMILY, kernel, count, *given.values(), dx, pooling)
    return dx


def _plan(name: str, storage: str, result: Array, *given: Array) -> tuple[int, int, str]:
    """Return how many channels a thread takes, how many threads have work, and the kernel."""
    width = vector_width(1, *given)
    count = result.size // width
    return width, count, f"{name}<{storage}, {width}, {index_type(count)}>"


@functools.lru_cache(maxsize=1024)
def _pooling(
    width: int,
    input_shape: Shape,
    output_size: Pair,
    windows: Windows,
    include_pad: bool,
    x: Strides = _ABSENT,
    y: Strides = _ABSENT,
    dy: Strides = _ABSENT,
) -> np.ndarray:
    """Return the struct ``Pooling``."""
    kernel, stride, padding = windows
    sizes = (input_shape[1] // width, *input_shape[2:], *output_size, *stride)
    dividers = (field for size in sizes for field in divider(max(size, 1)))
    return record(*dividers, *kernel, *padding, int(include_pad), *x, *y, *dy)


KERNELS: Final = {
    function.__name__: function
    for function in (max_pool_windows, max_pool_scatter, avg_pool_windows, avg_pool_scatter)
}
