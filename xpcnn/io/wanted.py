"""Which entries of a weight file are read: those that a model may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Wanted", "is_placeholder", "is_wanted", "placeholder"]

Wanted = Mapping[str, tuple[int, ...]] | None
"""A model's paths with their shapes; None for every entry."""


def is_wanted(wanted: Wanted, name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a model may take an entry: under its name or without prefixes, and of its shape.

    Examples
    --------
    >>> is_wanted({"fc.weight": (2, 3)}, "module.fc.weight", (2, 3))
    True
    >>> is_wanted({"fc.weight": (2, 3)}, "fc.weight", (4, 3))
    False
    """
    if wanted is None:
        return True
    segments = name.split(".")
    return any(wanted.get(".".join(segments[i:])) == shape for i in range(len(segments)))


def placeholder(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return zeros that take no memory, for an entry that is not read: they say its shape and dtype."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def is_placeholder(array: np.ndarray) -> bool:
    """Return whether an array is one of `placeholder`."""
    return not array.flags.writeable and array.size > 1 and not any(array.strides)
