"""Images in memory, blocks of them that stay in a cache, and passes over blocks on several threads.

Blocks depend on sizes alone, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from xpcnn.backend.threads import parallel_map

__all__ = ["Padding", "blocks", "framed", "last", "map_blocks", "place_for", "steps", "view"]

Array = np.ndarray[Any, Any]
Padding = tuple[int, int, int, int]

_LARGE: Final = 1 << 21
"""Elements from which on a pass over memory gains from a second thread; smaller arrays stay in a cache."""


def blocks(length: int, step: int) -> Iterator[slice]:
    """Yield the slices that cut `length` into pieces of `step`; the last one may be shorter."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def map_blocks(function: Callable[[slice], Any], length: int, step: int, work: float) -> list[Any]:
    """Return ``function(block)`` for the blocks of `length`, in order; on threads for much `work`.

    `work` is the number of elements that are passed over.
    """
    on_threads = parallel_map if work >= _LARGE else map
    return list(on_threads(function, blocks(length, step)))


def last(x: Array) -> Array:
    """Return x (N, C, H, W) as (N, H, W, C)."""
    return x.transpose(0, 2, 3, 1)


def place_for(shape: tuple[int, int, int, int], dtype: Any, out: Array | None = None) -> tuple[Array, Array]:
    """Return images of `shape` (N, C, H, W) to be written, and their memory (N, H, W, C), in one piece.

    They are `out` where its memory is like that, and new otherwise.
    """
    if out is not None and out.shape == shape and out.dtype == dtype:
        memory = last(out)
        if memory.flags.c_contiguous and memory.flags.writeable:
            return out, memory
    n, c, h, w = shape
    memory = np.empty((n, h, w, c), dtype)
    return memory.transpose(0, 3, 1, 2), memory


def framed(x: Array, padding: Padding) -> Array:
    """Return x (N, H, W, C) with zeros around it (top, bottom, left, right), in one piece."""
    if not any(padding):
        return np.ascontiguousarray(x)
    (n, h, w, c), (top, bottom, left, right) = x.shape, padding
    frame = np.empty((n, h + top + bottom, w + left + right, c), x.dtype)
    frame[:, :top] = frame[:, top + h :] = 0
    rows = frame[:, top : top + h]
    rows[:, :, :left] = rows[:, :, left + w :] = 0
    rows[:, :, left : left + w] = x
    return frame


def steps(x: Array) -> tuple[int, ...]:
    """Return the strides of a contiguous array by its shape: axes of length 1 may have any."""
    return tuple(x.itemsize * math.prod(x.shape[axis:]) for axis in range(1, x.ndim + 1))


def view(memory: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Return an array over the memory of a contiguous one, which need not be cut along its axes."""
    return np.ndarray(shape, memory.dtype, memory, strides=strides)
