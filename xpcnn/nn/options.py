"""Checks of what layers are built with, beside those of `xpcnn.ops.checks`."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import dtype_name, is_floating
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.ops.checks import whole

__all__ = ["floating", "grouped"]


def floating(layer: str, dtype: Any) -> Any:
    """Return a dtype, or the name of one, that parameters can have."""
    try:
        fits = is_floating(dtype)
    except TypeError:
        fits = False
    if not fits:
        shown = dtype if isinstance(dtype, str) or dtype is None else dtype_name(dtype)
        raise DtypeError(f"{layer}: dtype must be float16, bfloat16, float32 or float64, got {shown!r}")
    return dtype


def grouped(layer: str, name: str, groups: Any, **channels: Any) -> tuple[int, ...]:
    """Return a number of groups, and the numbers of channels, each of which it divides."""
    try:
        number, *counts = (whole(name, value, 1) for value in (groups, *channels.values()))
    except ArgumentError:
        counts = []
    if not counts or any(value % number for value in counts):
        shown = " and ".join(f"{channel}={value!r}" for channel, value in channels.items())
        raise ArgumentError(f"{layer}: {name}={groups!r} must divide {shown}, all integers of at least 1")
    return (number, *counts)
