"""How arrays lie in memory, for kernels that take any strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from xpcnn.backend.base import Array
from xpcnn.backend.current import backend_of

__all__ = ["c_strides", "contiguous", "empty_like", "merged"]

MaybeArray = TypeVar("MaybeArray")


def contiguous(x: MaybeArray) -> MaybeArray:
    """Return `x`, or a copy of it where its elements do not follow one another; None stays None."""
    return x if x is None or x.flags.c_contiguous else x.copy()  # type: ignore[attr-defined]


def empty_like(x: Array) -> Array:
    """Return a new array like `x`, without gaps and in its memory order."""
    return backend_of(x).xp.empty_like(x)


def merged(shape: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the axes of arrays of one shape, as ``(size, stride of each array)``, as few as they can be.

    Axes of size 1 are left out, and neighbours that each array passes over in one go become one.

    Examples
    --------
    >>> merged((2, 3, 4, 5), (60, 20, 5, 1), (60, 1, 15, 3))
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
