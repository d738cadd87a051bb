"""Checks of what layers are built with, beside those of `xpcnn.ops.op`."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import FLOATS, dtype_name
from xpcnn.backend.numbers import MOST_SIZE
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.ops.op import in_words, whole

__all__ = ["floating", "grouped"]


def floating(layer: str, dtype: Any) -> Any:
    """Return a dtype, or the name of one, that parameters can have."""
    try:
        fits = dtype_name(dtype) in FLOATS
    except DtypeError:
        fits = False
    if not fits:
        raise DtypeError(
            f"{layer}: dtype must be float16, bfloat16, float32 or float64, got {in_words(dtype)}"
        )
    return dtype


def grouped(layer: str, name: str, groups: Any, **channels: Any) -> tuple[int, ...]:
    """Return a number of groups, and the numbers of channels, each of which it divides."""
    try:
        number, *counts = (whole(name, value, 1) for value in (groups, *channels.values()))
    except ArgumentError:
        counts = []
    if not counts or any(value % number for value in counts):
        shown = " and ".join(f"{channel}={in_words(value)}" for channel, value in channels.items())
        raise ArgumentError(
            f"{layer}: {name}={in_words(groups)} must divide {shown}, all integers of at least 1 and at most "
            f"{MOST_SIZE}"
        )
    return (number, *counts)
