"""What the options of optimisers and schedules may be, and whether a saved state fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from xpcnn.backend import Array, home_of
from xpcnn.errors import ArgumentError, StateDictError
from xpcnn.nn.parameter import State
from xpcnn.ops.op import accumulator, in_words, plain, real

__all__ = ["Rule", "copy_like", "differences", "fraction", "non_negative", "saved_state", "two_fractions"]

# -- what an option may be ---------------------------------------------------------------

Rule = Callable[[str, Any], Any]
"""Takes what the value is (for the message) and the value; returns it cleaned, or raises `ArgumentError`."""

non_negative = partial(real, least=0)


def fraction(what: str, value: Any) -> float:
    """Accept a number in [0, 1)."""
    number = real(what, value)
    if not 0 <= number < 1:
        raise ArgumentError(f"{what} must be at least 0 and less than 1, got {in_words(value)}")
    return number


def two_fractions(what: str, value: Any) -> tuple[float, float]:
    """Accept two numbers in [0, 1)."""
    numbers = plain(value)
    if not isinstance(numbers, tuple) or len(numbers) != 2:
        raise ArgumentError(f"{what} must be two numbers, got {in_words(value)}")
    return fraction(f"{what}[0]", numbers[0]), fraction(f"{what}[1]", numbers[1])


# -- saved state -------------------------------------------------------------------------


@contextmanager
def saved_state(where: str, what: str) -> Iterator[list[str]]:
    """Return the block that reads a saved state, and a list for what of it does not fit.

    Raises
    ------
    StateDictError
        When it is no state of `what`, or does not fit; all of the list is named.
    """
    problems: list[str] = []
    try:
        yield problems
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise StateDictError(f"{where}: not the state of {what}: {error!r}") from error
    if problems:
        raise StateDictError(f"{where}: the saved state does not fit:\n  " + "\n  ".join(problems))


def differences(expected: Iterable[str], found: Iterable[str], of: str = "") -> list[str]:
    """Return which names are missing and which unexpected, in words."""
    expected, found = list(expected), list(found)
    missing = [f"missing: {of}{name}" for name in expected if name not in found]
    return missing + [f"unexpected: {of}{name}" for name in found if name not in expected]


def copy_like(state: State, array: Any) -> Array:
    """Return a copy of an array of any library, where a parameter or buffer is.

    It is of that one's dtype, and of float32 where that is half precision.
    """
    dtype = state.data.dtype
    backend = home_of(state.data)
    return backend.copy(backend.asarray(array, accumulator(backend, dtype) or dtype))
