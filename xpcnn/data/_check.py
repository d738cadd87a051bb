"""The argument checks of this package, which imports no backend and so not `xpcnn.backend.numbers`."""

import operator

import numpy as np

from xpcnn.errors import ArgumentError

__all__ = ["check_flag", "check_integer"]

MOST_SIZE = 2**31 - 1


def check_integer(where: str, argument: str, value: object, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`, or raise ArgumentError saying where it came from.

    With a `minimum` of 1 it is a size or a count, of at most `MOST_SIZE`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise ArgumentError(f"{where}: {argument} must be an integer of at least {minimum}, got {value!r}")
    if minimum == 1 and number > MOST_SIZE:
        raise ArgumentError(f"{where}: {argument} must be at most {MOST_SIZE}, got {value!r}")
    return number


def check_flag(where: str, argument: str, value: object) -> bool:
    """Return True or False, or raise ArgumentError saying where another value came from."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{where}: {argument} must be True or False, got {value!r}")
    return bool(value)
