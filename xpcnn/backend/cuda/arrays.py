"""What wrappers ask about arrays: the type kernels see, strides in elements, where vectors may be read."""

from __future__ import annotations

import functools
from typing import Any, Final

from xpcnn.backend.base import Array, dtype_name, itemsize
from xpcnn.backend.cuda import launch
from xpcnn.backend.cuda.source import STORAGE
from xpcnn.backend.current import backend_of

__all__ = ["element_strides", "empty", "empty_images", "full_width", "storage_of", "vector_width"]

_VECTOR_BYTES: Final = 16


def storage_of(*arrays: Array) -> str | None:
    """Return the C++ type of the elements of all `arrays`, or None where they differ or kernels lack it."""
    names = {dtype_name(x.dtype) for x in arrays}
    return STORAGE.get(names.pop()) if len(names) == 1 else None


def element_strides(x: Array) -> tuple[int, ...]:
    """Return the strides of `x` in elements."""
    return _in_elements(x.strides, x.dtype.itemsize)


@functools.lru_cache(maxsize=1024)
def _in_elements(strides: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(stride // size for stride in strides)


def full_width(dtype: Any) -> int:
    """Return how many elements one instruction can move."""
    return _VECTOR_BYTES // itemsize(dtype)


def vector_width(axis: int, *arrays: Array) -> int:
    """Return how many neighbours along `axis` of all `arrays` a thread may move at once: `full_width`, or 1.

    The arrays are of one dtype, and vectors must divide that axis of the first.
    """
    first = arrays[0]
    width = _width(axis, first.dtype, first.shape[axis], tuple(x.strides for x in arrays))
    return 1 if width > 1 and any(launch.address(x) % _VECTOR_BYTES for x in arrays) else width


@functools.lru_cache(maxsize=1024)
def _width(axis: int, dtype: Any, length: int, strides: tuple[tuple[int, ...], ...]) -> int:
    width = full_width(dtype)
    adjacent = all(steps[axis] == itemsize(dtype) for steps in strides)
    others = [step for steps in strides for step in (*steps[:axis], *steps[axis + 1 :])]
    return width if adjacent and not length % width and not any(s % _VECTOR_BYTES for s in others) else 1


def empty(like: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """Return a new C-contiguous array, next to `like` and of its dtype unless one is given."""
    backend = backend_of(like)
    return backend.xp.empty(shape, dtype=dtype or like.dtype, device=backend.device)


def empty_images(like: Array, shape: tuple[int, int, int, int], dtype: Any = None) -> Array:
    """Return new images (N, C, H, W) over channels-last memory."""
    n, c, h, w = shape
    return empty(like, (n, h, w, c), dtype).transpose(0, 3, 1, 2)
