"""The layout of arrays in memory, blocks of them that stay in a cache, and passes on several threads.

Blocks, and what each thread does, depend on the size alone, and sums are added up in a fixed order: the bits
do not depend on the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from xpcnn.backend.threads import parallel_for

__all__ = [
    "BLOCK_BYTES",
    "Padding",
    "blocks",
    "channel_matrix",
    "dense",
    "empty_like_channel_matrix",
    "framed",
    "is_supported",
    "last",
    "parallel_for_slices",
    "parallel_sum",
    "place_for",
    "steps",
    "view",
]

Array = np.ndarray[Any, Any]

BLOCK_BYTES: Final = 512 << 10
"""Bytes of one operand of a block: short enough to be in a cache for the next pass over it, long enough to
hide what the call of a ufunc costs."""

_LARGE_COPY: Final = 1 << 19
_SIDE: Final = 64

_SERVED: Final = (np.dtype("float32"), np.dtype("float64"))


def is_supported(*arrays: Array) -> bool:
    """Whether all are of one dtype that NumPy computes in at speed."""
    dtype = arrays[0].dtype
    if dtype not in _SERVED:
        return False
    for array in arrays:  # noqa: SIM110 - half the time of all()
        if array.dtype != dtype:
            return False
    return True


def channel_matrix(x: Array) -> Array | None:
    """Return x (N, C, ...) over channels-last memory as a view (pixels, C); None for other memory."""
    last = x.transpose(_channels_last(x.ndim)[0])
    return last.reshape(-1, x.shape[1]) if last.flags.c_contiguous else None


def empty_like_channel_matrix(x: Array) -> tuple[Array, Array]:
    """Return a new array like x (N, C, ...) over channels-last memory, and its view (pixels, C)."""
    n, c, *size = x.shape
    memory = np.empty((n, *size, c), x.dtype)
    return memory.transpose(_channels_last(x.ndim)[1]), memory.reshape(-1, c)


@functools.cache
def _channels_last(axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the orders of axes from (N, C, ...) to (N, ..., C), and back: far quicker than `moveaxis`."""
    return (0, *range(2, axes), 1), (0, axes - 1, *range(1, axes - 1))


def blocks(length: int, step: int) -> Iterator[slice]:
    """Yield the slices that cut `length` into pieces of `step`; the last one may be shorter."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def dense(x: Array) -> Array:
    """Return `x` in C order; a large array in square blocks of its first axes, which fit a cache."""
    if x.flags.c_contiguous:
        return x
    if x.ndim < 2 or x.size < _LARGE_COPY:
        return np.ascontiguousarray(x)
    y = np.empty(x.shape, x.dtype)

    def copy(rows: slice) -> None:
        for columns in blocks(x.shape[1], _SIDE):
            y[rows, columns] = x[rows, columns]

    parallel_for(copy, blocks(len(x), _SIDE))
    return y


# -- images ------------------------------------------------------------------------------

_SMALL: Final = 1 << 14
"""Numbers that are written twice in less time than a call of NumPy takes."""

Padding = tuple[int, int, int, int]


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
    top, bottom, left, right = padding
    if not any(padding):
        return np.ascontiguousarray(x)
    n, h, w, c = x.shape
    shape = (n, h + top + bottom, w + left + right, c)
    if x.size <= _SMALL:  # fewer calls
        frame = np.zeros(shape, x.dtype)
        frame[:, top : top + h, left : left + w] = x
        return frame
    frame = np.empty(shape, x.dtype)
    if top:
        frame[:, :top] = 0
    if bottom:
        frame[:, top + h :] = 0
    rows = frame[:, top : top + h]
    if left:
        rows[:, :, :left] = 0
    if right:
        rows[:, :, left + w :] = 0
    rows[:, :, left : left + w] = x
    return frame


def steps(x: Array) -> tuple[int, ...]:
    """Return the strides of a contiguous array by its shape: axes of length 1 may have any."""
    found = [x.itemsize]
    for size in reversed(x.shape[1:]):
        found.append(found[-1] * size)
    return tuple(reversed(found))


def view(memory: Array, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Array:
    """Return an array over the memory of a contiguous one, which need not be cut along its axes."""
    return np.ndarray(shape, memory.dtype, memory, offset, strides)


# -- on several threads ------------------------------------------------------------------

_LARGE: Final = 1 << 21
"""Elements from which on a pass over memory gains from a second thread; smaller arrays stay in a cache."""

_SHARES: Final = 4


def parallel_for_slices(function: Callable[[slice], None], size: int, step: int, large: int = _LARGE) -> None:
    """Call ``function(share)`` for the shares of `size` elements, all but the last a multiple of `step`.

    Fewer than `large` elements are one share.
    """
    if size < large:
        function(slice(0, size))
    else:
        parallel_for(function, _shares(size, step, large))


def parallel_sum(function: Callable[[slice], Array], size: int, step: int) -> Array:
    """Return the sum of ``function(share)`` over the shares."""
    shares = list(_shares(size, step))
    found: dict[int, Array] = {}

    def keep(i: int) -> None:
        found[i] = function(shares[i])

    parallel_for(keep, range(len(shares)))
    return functools.reduce(np.add, (found[i] for i in range(len(shares))))


def _shares(size: int, step: int, large: int = _LARGE) -> Iterator[slice]:
    if size < large:
        return iter([slice(0, size)])
    return blocks(size, -(-size // (_SHARES * step)) * step)
