"""Images over channels-last memory: frames of zeros, places for results, views."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["Padding", "framed", "last", "new_images", "steps", "view"]

Array = np.ndarray[Any, Any]
Padding = tuple[int, int, int, int]


def last(x: Array) -> Array:
    """Return x (N, C, H, W) as (N, H, W, C)."""
    return x.transpose(0, 2, 3, 1)


def new_images(shape: tuple[int, int, int, int], dtype: Any) -> tuple[Array, Array]:
    """Return new images of `shape` (N, C, H, W), and their memory (N, H, W, C), in one piece."""
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
