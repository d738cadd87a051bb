"""Passes over large arrays in shares, on several threads.

The shares depend on the size alone, and sums are added up in their order, so the bits do not depend on the
number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from xpcnn.backend.host.memory import Array, blocks
from xpcnn.backend.threads import run_on_threads

__all__ = ["run_in_shares", "sum_of_shares"]

_LARGE: Final = 1 << 21
"""Elements from which on a pass over memory gains from a second thread; smaller arrays lie in a cache."""

_SHARES: Final = 4


def run_in_shares(function: Callable[[slice], None], size: int, step: int, large: int = _LARGE) -> None:
    """Call ``function(share)`` for the shares of `size` elements, all but the last a multiple of `step`.

    Fewer than `large` elements are one share.
    """
    run_on_threads(function, _shares(size, step, large))


def sum_of_shares(function: Callable[[slice], Array], size: int, step: int) -> Array:
    """Return the sum of ``function(share)`` over the shares."""
    shares = list(_shares(size, step))
    found: dict[int, Array] = {}

    def keep(i: int) -> None:
        found[i] = function(shares[i])

    run_on_threads(keep, range(len(shares)))
    return functools.reduce(np.add, (found[i] for i in range(len(shares))))


def _shares(size: int, step: int, large: int = _LARGE) -> Iterator[slice]:
    if size < large:
        return iter([slice(0, size)])
    return blocks(size, -(-size // (_SHARES * step)) * step)
