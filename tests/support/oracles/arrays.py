"""Types, and the tool for functions without a closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Index = tuple[int, ...]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Padding as (top, bottom, left, right)."""


def float64(values: Any) -> Array:
    """A float64 copy of anything NumPy reads."""
    return np.array(values, dtype=np.float64)


def numeric_gradient(f: Callable[[Array], float], x: Array, step: float = 1e-5) -> Array:
    """df/dx by central differences, one element at a time."""
    x = float64(x)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = f(x)
        x[index] = kept - step
        below = f(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient
