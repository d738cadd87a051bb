"""One argument check that several modules of this package share."""

import operator

from xpcnn.errors import ArgumentError

__all__ = ["check_integer"]


def check_integer(where: str, argument: str, value: object, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`, or raise ArgumentError saying where it came from."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise ArgumentError(f"{where}: {argument} must be an integer of at least {minimum}, got {value!r}")
    return number
