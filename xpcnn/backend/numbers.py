"""Numbers as options: NumPy's become Python's, which leave the dtype of an array as it is."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from xpcnn.backend.current import is_array, to_numpy
from xpcnn.errors import ArgumentError

__all__ = ["flag", "plain", "real", "whole"]


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
    if is_array(value):
        value = to_numpy(value).tolist()
    if isinstance(value, (list, tuple)):
        return tuple([plain(one) for one in value])
    if isinstance(value, Mapping):
        return {plain(name): plain(one) for name, one in value.items()}
    return value


def real(what: str, value: Any) -> float:
    """Return a finite number as a float, or raise ArgumentError with `what` the value is.

    A NumPy scalar that is no Python number would turn a float32 array into float64.
    """
    number = value if type(value) is float else plain(value)
    if type(number) is not bool and isinstance(number, Real):
        try:
            finite = math.isfinite(number)
        except OverflowError:  # an integer beyond all floats
            finite = False
        if finite:
            return float(number)
    raise ArgumentError(f"{what} must be a finite number, got {value!r}")


def whole(what: str, value: Any, least: int) -> int:
    """Return an integer of at least `least` as an int, or raise ArgumentError with `what` the value is.

    True is no integer, nor is 4.0.
    """
    number = value if type(value) is int else plain(value)
    if not isinstance(number, bool):
        try:
            number = operator.index(number)
        except TypeError:
            pass
        else:
            if number >= least:
                return number
    raise ArgumentError(f"{what} must be a whole number of at least {least}, got {value!r}")


def flag(what: str, value: Any) -> bool:
    """Return True or False, or raise ArgumentError with `what` the value is."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{what} must be True or False, got {value!r}")
    return bool(value)
