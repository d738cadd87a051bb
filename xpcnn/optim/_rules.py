"""What an option may be: each rule returns the cleaned value or raises `ArgumentError`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xpcnn.errors import ArgumentError
from xpcnn.ops.checks import flag, in_words, plain, positive, real, whole

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
    return real(what, value, 0)


def fraction(what: str, value: Any) -> float:
    """Accept a number in [0, 1)."""
    number = real(what, value)
    if not 0 <= number < 1:
        raise ArgumentError(f"{what} must be at least 0 and less than 1, got {in_words(value)}")
    return number


def share(what: str, value: Any) -> float:
    """Accept a number in [0, 1]."""
    return real(what, value, 0, 1)


def count(what: str, value: Any) -> int:
    """Accept an integer of at least 0."""
    return whole(what, value, 0)


def positive_count(what: str, value: Any) -> int:
    """Accept an integer of at least 1."""
    return whole(what, value, 1)


def two_fractions(what: str, value: Any) -> tuple[float, float]:
    """Accept two numbers in [0, 1)."""
    numbers = plain(value)
    if not isinstance(numbers, tuple) or len(numbers) != 2:
        raise ArgumentError(f"{what} must be two numbers, got {in_words(value)}")
    return fraction(f"{what}[0]", numbers[0]), fraction(f"{what}[1]", numbers[1])
