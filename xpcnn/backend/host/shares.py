"""Passes over large arrays in shares, on several threads.

The shares depend on the size alone, and sums are added up in their order, so the bits do not depend on the
number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import numpy as np

from xpcnn.backend.host.memory import Array, blocks
from xpcnn.backend.threads import on_threads

__all__ = ["run_in_shares", "sum_of_shares"]

Result = TypeVar("Result")

_LARGE: Final = 1 << 19
"""Elements above which a pass takes far longer than handing it to another thread."""

_SHARES: Final = 4


def sum_of_shares(function: Callable[[slice], Array], size: int, step: int) -> Array:
    """Return the sum of ``function(share)`` over all shares."""
    return functools.reduce(np.add, _in_shares(function, size, step))


def _in_shares(function: Callable[[slice], Result], size: int, step: int) -> Iterator[Result]:
    """Yield ``function(share)`` for the shares of `size` elements, all but the last a multiple of `step`."""
    if size < _LARGE:
        return iter([function(slice(0, size))])
    share = -(-size // (_SHARES * step)) * step
    return on_threads(function, blocks(size, share))


def run_in_shares(function: Callable[[slice], None], size: int, step: int) -> None:
    """Call ``function(share)`` for all shares."""
    for _ in _in_shares(function, size, step):
        pass
