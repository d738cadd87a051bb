"""Maxima and means over windows, and their gradients: the wrappers of ``pool.cu``."""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.cuda.arrays import element_strides, empty_images, storage_of, vector_width
from xpcnn.backend.cuda.launch import dividers, launch, record, sized
from xpcnn.backend.cuda.source import Family, vectored

__all__ = ["FAMILY", "KERNELS"]

Strides = tuple[int, ...]

_ABSENT: Final = (0, 0, 0, 0)

_NAMES: Final = ("max_pool_windows", "max_pool_scatter", "avg_pool_windows", "avg_pool_scatter")

FAMILY: Final = Family("pool", tuple(kernel for name in _NAMES for kernel in vectored(name)))


def max_pool_windows(x: Array, geometry: Any) -> Array:
    """Return the maxima of x (N, C, H, W), whatever its strides: (N, C, OH, OW), channels-last."""
    return _launch("max_pool_windows", geometry.output_shape[2:], geometry, False, x=x)


def avg_pool_windows(x: Array, geometry: Any, count_include_pad: bool) -> Array:
    """Return the means of x (N, C, H, W), whatever its strides: (N, C, OH, OW), channels-last."""
    return _launch("avg_pool_windows", geometry.output_shape[2:], geometry, count_include_pad, x=x)


def max_pool_scatter(dy: Array, x: Array, y: Array, geometry: Any) -> Array:
    """Return dx (N, C, H, W), channels-last; dy, x and y may have any strides."""
    return _launch("max_pool_scatter", geometry.input_shape[2:], geometry, False, dy=dy, x=x, y=y)


def avg_pool_scatter(dy: Array, geometry: Any, count_include_pad: bool) -> Array:
    """Return dx (N, C, H, W), channels-last; dy may have any strides."""
    return _launch("avg_pool_scatter", geometry.input_shape[2:], geometry, count_include_pad, dy=dy)


def _launch(name: str, size: tuple[int, int], geometry: Any, include_pad: bool, **given: Array) -> Array:
    """Return new images of this size that a kernel makes of those that are given."""
    storage = storage_of(*given.values())
    if storage is None:
        return NotImplemented
    first = next(iter(given.values()))
    result = empty_images(first, (*first.shape[:2], *size))
    width = vector_width(1, *given.values())
    strides = {name: element_strides(array) for name, array in given.items()}
    pooling = _pooling(width, geometry, include_pad, **strides)
    launch(FAMILY, *sized(name, storage, result, width), *given.values(), result, pooling)
    return result


@functools.lru_cache(maxsize=1024)
def _pooling(
    width: int,
    geometry: Any,
    include_pad: bool,
    x: Strides = _ABSENT,
    y: Strides = _ABSENT,
    dy: Strides = _ABSENT,
) -> np.ndarray:
    """Return the struct ``Pooling``."""
    _, channels, *size = geometry.input_shape
    sizes = (channels // width, *size, *geometry.output_shape[2:], *geometry.stride)
    return record(*dividers(*sizes), *geometry.kernel, *geometry.padding, int(include_pad), *x, *y, *dy)


KERNELS: Final = {
    function.__name__: function
    for function in (max_pool_windows, max_pool_scatter, avg_pool_windows, avg_pool_scatter)
}
