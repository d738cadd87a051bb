"""What an option may be: each rule returns the cleaned value or raises `ArgumentError`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from xpcnn.errors import ArgumentError

__all__ = [
    "Rule",
    "count",
    "flag",
    "fraction",
    "non_negative",
    "positive",
    "positive_count",
    "share",
    "two_fractions",
]

Rule = Callable[[str, Any], Any]
"""Takes what the value is (for the message) and the value."""


def non_negative(what: str, value: Any) -> float:
    """Accept a finite number of at least 0."""
    number = _number(what, value)
    if number < 0:
        raise ArgumentError(f"{what} must be at least 0, got {value!r}")
    return number


def positive(what: str, value: Any) -> float:
    """Accept a finite number above 0."""
    number = _number(what, value)
    if number <= 0:
        raise ArgumentError(f"{what} must be above 0, got {value!r}")
    return number


def fraction(what: str, value: Any) -> float:
    """Accept a number in [0, 1)."""
    number = _number(what, value)
    if not 0 <= number < 1:
        raise ArgumentError(f"{what} must be at least 0 and less than 1, got {value!r}")
    return number


def share(what: str, value: Any) -> float:
    """Accept a number in [0, 1]."""
    number = _number(what, value)
    if not 0 <= number <= 1:
        raise ArgumentError(f"{what} must be at least 0 and at most 1, got {value!r}")
    return number


def count(what: str, value: Any) -> int:
    """Accept a whole number of at least 0."""
    return _whole(what, value, 0)


def positive_count(what: str, value: Any) -> int:
    """Accept a whole number of at least 1."""
    return _whole(what, value, 1)


def two_fractions(what: str, value: Any) -> tuple[float, float]:
    """Accept two numbers in [0, 1)."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ArgumentError(f"{what} must be two numbers, got {value!r}")
    return fraction(f"{what}[0]", value[0]), fraction(f"{what}[1]", value[1])


def flag(what: str, value: Any) -> bool:
    """Accept True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{what} must be True or False, got {value!r}")
    return value


def _number(what: str, value: Any) -> float:
    # Arrays are refused, as reading one waits for its device. A NumPy scalar becomes a float, since
    # numpy.float64(0.1) would turn a float32 array into float64.
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ArgumentError(f"{what} must be a finite number, got {value!r}")
    return float(value)


def _whole(what: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ArgumentError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return int(value)
