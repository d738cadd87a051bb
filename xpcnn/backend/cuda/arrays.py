"""What wrappers ask about arrays: the type kernels see, strides in elements, where vectors may be read."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.arrays import dtype_name, itemsize
from xpcnn.backend.cuda import launch
from xpcnn.backend.cuda.source import STORAGE, VECTOR_BYTES, full_width
from xpcnn.backend.current import backend_of

__all__ = [
    "c_strides",
    "contiguous",
    "element_strides",
    "empty",
    "empty_images",
    "empty_like",
    "merge_axes",
    "storage_of",
    "vector_width",
]

MaybeArray = TypeVar("MaybeArray")


def storage_of(*arrays: Array | None) -> str | None:
    """Return the C++ type of the elements of all `arrays`, or None where they differ or kernels lack it.

    Arguments that are None are passed over.
    """
    names = {dtype_name(x.dtype) for x in arrays if x is not None}
    return STORAGE.get(names.pop()) if len(names) == 1 else None


def element_strides(x: Array) -> tuple[int, ...]:
    """Return the strides of `x` in elements."""
    size = x.dtype.itemsize
    return tuple([stride // size for stride in x.strides])


def vector_width(axis: int, *arrays: Array) -> int:
    """Return how many neighbours along `axis` of all `arrays` a thread may move at once: `full_width`, or 1.

    The arrays are of one dtype, and vectors must divide that axis of the first.
    """
    width = _width(axis, arrays[0].dtype, arrays[0].shape[axis], tuple(x.strides for x in arrays))
    return 1 if width > 1 and any(launch.address(x) % VECTOR_BYTES for x in arrays) else width


@functools.lru_cache(maxsize=1024)
def _width(axis: int, dtype: Any, length: int, strides: tuple[tuple[int, ...], ...]) -> int:
    width = full_width(dtype)
    adjacent = all(steps[axis] == itemsize(dtype) for steps in strides)
    others = [step for steps in strides for step in (*steps[:axis], *steps[axis + 1 :])]
    return width if adjacent and not length % width and not any(s % VECTOR_BYTES for s in others) else 1


def empty(like: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """Return a new C-contiguous array, next to `like` and of its dtype unless one is given."""
    backend = backend_of(like)
    return backend.xp.empty(shape, dtype=dtype or like.dtype, device=backend.device)


def empty_images(like: Array, shape: tuple[int, int, int, int], dtype: Any = None) -> Array:
    """Return new images (N, C, H, W) over channels-last memory."""
    n, c, h, w = shape
    return empty(like, (n, h, w, c), dtype).transpose(0, 3, 1, 2)


def contiguous(x: MaybeArray) -> MaybeArray:
    """Return `x`, or a copy of it where its elements do not follow one another; None stays None."""
    return x if x is None or x.flags.c_contiguous else x.copy()  # type: ignore[attr-defined]


def empty_like(x: Array) -> Array:
    """Return a new array like `x`, without gaps and in its memory order."""
    return backend_of(x).xp.empty_like(x)


def merge_axes(shape: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the axes of arrays of one shape, as ``(size, stride of each array)``, as few as they can be.

    Axes of size 1 are left out, and neighbours that each array passes over in one go become one.

    Examples
    --------
    >>> merge_axes((2, 3, 4, 5), (60, 20, 5, 1), (60, 1, 15, 3))
    [(2, 60, 60), (3, 20, 1), (20, 1, 3)]
    """
    axes: list[tuple[int, ...]] = []
    for size, *steps in zip(shape, *strides, strict=True):
        if size == 1:
            continue
        if axes and all(outer == size * step for outer, step in zip(axes[-1][1:], steps, strict=True)):
            axes[-1] = (axes[-1][0] * size, *steps)
        else:
            axes.append((size, *steps))
    return axes


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a C-contiguous array of this shape."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
