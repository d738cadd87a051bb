"""What layers ask of the options that they are built with, so that an impossible one is refused at once."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import dtype_name, is_floating
from xpcnn.backend.numbers import whole
from xpcnn.errors import ArgumentError, DtypeError

__all__ = ["count", "floating", "grouped"]


def count(layer: str, name: str, value: Any) -> int:
    """Return a number of channels, groups or the like: an integer of at least 1."""
    try:
        return whole(name, value, 1)
    except ArgumentError:
        raise ArgumentError(f"{layer}: {name}={value!r} must be an integer of at least 1") from None


def floating(layer: str, dtype: Any) -> Any:
    """Return a dtype, or its name, that parameters can have."""
    try:
        fits = is_floating(dtype)
    except TypeError:
        fits = False
    if not fits:
        told = dtype if isinstance(dtype, str) or dtype is None else dtype_name(dtype)
        raise DtypeError(f"{layer}: dtype must be float16, bfloat16, float32 or float64, got {told!r}")
    return dtype


def grouped(layer: str, name: str, groups: Any, **channels: Any) -> tuple[int, ...]:
    """Return the number of groups, and numbers of channels that it divides."""
    try:
        number, *counts = (whole(name, value, 1) for value in (groups, *channels.values()))
    except ArgumentError:
        counts = []
    if not counts or any(value % number for value in counts):
        told = " and ".join(f"{channel}={value!r}" for channel, value in channels.items())
        raise ArgumentError(f"{layer}: {name}={groups!r} must divide {told}, all integers of at least 1")
    return (number, *counts)
