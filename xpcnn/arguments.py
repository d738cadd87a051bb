"""Checks of numbers given as options; they become numbers of Python, which keep an array's dtype."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from xpcnn.errors import ArgumentError

__all__ = ["MOST_SIZE", "flag", "in_words", "plain", "positive", "real", "whole"]


_MOST_CHARACTERS = 120


def in_words(value: Any) -> str:
    """Return what a message says of a value: its ``repr``, on one line, and not long.

    Examples
    --------
    >>> in_words((1, "a\\nb")), in_words(10**5000)
    ("(1, 'a\\\\nb')", 'a number of more than 4,300 digits')
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:
        text = f"a number of more than {sys.get_int_max_str_digits():,} digits"
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def plain(value: Any) -> Any:
    """Return numbers and arrays, alone or in containers, as Python's own numbers and tuples.

    Lists become tuples, too. Anything else stays as it is.

    Examples
    --------
    >>> import numpy as np
    >>> plain(np.float64(0.1)), plain(np.array([8, 16])), plain([np.int64(2), (np.bool_(True), "same")])
    (0.1, (8, 16), (2, (True, 'same')))
    """
    if value is None or type(value) in (int, float, bool, str):
        return value
    if isinstance(getattr(value, "shape", None), tuple):  # an array or a number of any library
        value = (value if hasattr(value, "tolist") else np.asarray(value)).tolist()
    if isinstance(value, (list, tuple)):
        return tuple([plain(one) for one in value])
    if isinstance(value, Mapping):
        return {plain(name): plain(one) for name, one in value.items()}
    return value


def real(what: str, value: Any, least: float | None = None, most: float | None = None) -> float:
    """Return a finite number within bounds as a float, or raise ArgumentError with `what` the value is.

    NumPy's float64 scalars would turn a float32 array into float64; a float does not.
    """
    number = plain(value)
    try:
        number = math.nan if isinstance(number, bool) or not isinstance(number, Real) else float(number)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise ArgumentError(f"{what} must be a finite number, got {in_words(value)}")
    if (least is not None and number < least) or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ArgumentError(f"{what} must be {bounds}, got {in_words(value)}")
    return float(number)


def positive(what: str, value: Any) -> float:
    """Return a finite number above 0 as a float, or raise ArgumentError with `what` the value is."""
    number = real(what, value)
    if number <= 0:
        raise ArgumentError(f"{what} must be above 0, got {in_words(value)}")
    return number


MOST_SIZE = 2**31 - 1
"""The largest size of an axis, and the largest count: kernels index with 32 bits."""


def whole(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return an integer within bounds as an int, or raise ArgumentError with `what` the value is.

    True is no integer, nor is 4.0. With a `least` of 1 it is a size or a count, of at most `MOST_SIZE`.
    """
    number = value if type(value) is int else plain(value)
    bound = "" if least is None else f" of at least {least}"
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise ArgumentError(f"{what} must be an integer{bound}, got {in_words(value)}")
    number = operator.index(number)
    if least is not None and number < least:
        raise ArgumentError(f"{what} must be an integer{bound}, got {in_words(value)}")
    most = MOST_SIZE if most is None and least == 1 else most
    if most is not None and number > most:
        raise ArgumentError(f"{what} must be at most {most}, got {in_words(value)}")
    return number


def flag(what: str, value: Any) -> bool:
    """Return True or False, or raise ArgumentError with `what` the value is."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{what} must be True or False, got {in_words(value)}")
    return bool(value)
