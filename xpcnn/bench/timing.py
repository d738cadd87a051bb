"""Timing several contestants fairly on a machine that others use too."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from xpcnn.backend import Backend
from xpcnn.backend.threads import use_num_threads
from xpcnn.backend.torch_peer import set_torch_threads

__all__ = [
    "BLOCK_SECONDS",
    "SLOW_ROUNDS",
    "SLOW_SECONDS",
    "TimedElsewhere",
    "Timing",
    "held_to",
    "interleaved",
    "seconds_of",
]

BLOCK_SECONDS = 0.01
"""A contestant's turn lasts about this long at least: quick calls are repeated in it."""
SLOW_SECONDS, SLOW_ROUNDS = 2.0, 3
"""A call that takes this long gets no more turns than these."""

Name = TypeVar("Name")


@dataclass
class Timing:
    """The seconds of a call in each round, and what they say."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The first quartile: with `high`, the spread that half of the rounds are within."""
        return self._quartiles()[0]

    @property
    def high(self) -> float:
        """The third quartile."""
        return self._quartiles()[1]

    @property
    def best(self) -> float:
        return min(self.seconds)

    def _quartiles(self) -> tuple[float, float]:
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@runtime_checkable
class TimedElsewhere(Protocol):
    """A call that another process makes, and times: the way there and back is not counted."""

    def __call__(self) -> Any:
        """Make the call once."""

    def seconds(self, repeats: int) -> float:
        """Return what each of so many calls took."""


def interleaved(
    calls: Mapping[Name, Callable[[], Any] | TimedElsewhere],
    rounds: int,
    block: float = BLOCK_SECONDS,
    into: dict[Name, Timing] | None = None,
    pause: float = 0.0,
) -> dict[Name, Timing]:
    """Time calls turn by turn.

    All contestants have a turn in each round, so a machine whose speed drifts slows them alike. Every call
    must wait for its device itself. One call of each, which is not counted, warms it up and says how often
    it is repeated in a turn.

    Parameters
    ----------
    calls : mapping of name to callable
        A `TimedElsewhere` is asked for its seconds.
    rounds : int
    block : float
        Seconds that a turn lasts at least.
    into : dict, optional
        Filled while the rounds go on, for who wants to keep them when Ctrl-C ends them.
    pause : float
        Seconds before each turn in which nothing runs, so that the threads of whoever was last fall asleep.

    Returns
    -------
    dict of name to Timing

    Examples
    --------
    >>> known = interleaved({"nothing": lambda: None, "sum": lambda: sum(range(1000))}, rounds=3)
    >>> len(known["sum"].seconds), known["nothing"].median < known["sum"].median
    (3, True)
    """
    known: dict[Name, Timing] = {} if into is None else into
    once = {name: seconds_of(call, 1) for name, call in calls.items()}
    repeats = {
        name: max(1, min(10_000, math.ceil(block / max(seconds, 1e-7)))) for name, seconds in once.items()
    }
    for done in range(rounds):
        for name, call in calls.items():
            if done < SLOW_ROUNDS or once[name] < SLOW_SECONDS:
                if pause:
                    time.sleep(pause)
                known.setdefault(name, Timing()).seconds.append(seconds_of(call, repeats[name]))
    return known


def seconds_of(call: Callable[[], Any] | TimedElsewhere, repeats: int) -> float:
    """Return what each of so many calls takes on average."""
    if isinstance(call, TimedElsewhere):
        return call.seconds(repeats)
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) / repeats


@contextmanager
def held_to(backend: Backend, threads: int) -> Iterator[None]:
    """Compute on `backend` with so many threads: our own, and those of BLAS or of PyTorch."""
    if backend.name == "torch":
        set_torch_threads(threads)
    with use_num_threads(threads):
        if threads == 1:
            with backend.model_run():
                yield
            return
        from threadpoolctl import threadpool_limits

        with backend.activated(), threadpool_limits(limits=threads, user_api="blas"):
            yield
