"""A contest: calls that do the same work, in turns, and what they took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xpcnn.bench.measure import OURS
from xpcnn.bench.timing import Timing, interleaved

__all__ = [
    "BLOCK_SECONDS",
    "PAUSE_SECONDS",
    "TOLERANCE",
    "Calls",
    "Contest",
    "DifferentError",
    "contest",
    "require_equal",
]

BLOCK_SECONDS = 0.5
"""A turn lasts this long at least."""

PAUSE_SECONDS = 0.05
"""Nothing runs before each turn, for longer than another library's threads go on waiting for work."""

TOLERANCE = 1e-4
"""Results that are further apart are different, relative to the largest number."""

Calls = Mapping[str, Callable[[], Any]]


class DifferentError(Exception):
    """Two contenders do not compute the same."""


@dataclass(frozen=True)
class Contest:
    """Milliseconds of each contender, and the ratio of ours to the best of the others.

    Attributes
    ----------
    row, work : str
        The row's name, and what is done, in words.
    threads, rounds : int
    ms, low_ms, high_ms : dict of contender to float
        The median of the rounds, and its quartiles.
    rival : str
        The other contender with the least median.
    ratio, low_ratio, high_ratio : float
        Of the medians; and the quartiles of the ratios round by round.
    """

    row: str
    work: str
    threads: int
    rounds: int
    ms: dict[str, float]
    low_ms: dict[str, float]
    high_ms: dict[str, float]
    rival: str
    ratio: float
    low_ratio: float
    high_ratio: float

    def to_json(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {"kind": "contest", **asdict(self)}


def contest(
    row: str, work: str, threads: int, sessions: Iterable[tuple[Calls, int]], block: float = BLOCK_SECONDS
) -> tuple[Contest | None, bool]:
    """Time calls that are known to do the same, one of them ours, in turns.

    Parameters
    ----------
    row, work : str
    threads : int
    sessions : iterable of (calls, rounds)
        Which calls have their turns, and in how many rounds. All sessions are of the same contenders, made
        anew; the one at hand is over when the next is asked for.
    block : float
        Seconds of a turn, at least.

    Returns
    -------
    found : Contest or None
        None where Ctrl-C came before the first round was done.
    interrupted : bool
        True where it cut the rounds short.
    """
    timings: dict[str, Timing] = {}
    names: set[str] = set()
    interrupted = False
    try:
        for calls, rounds in sessions:
            names |= calls.keys()
            interleaved(calls, rounds, block, timings, PAUSE_SECONDS)
    except KeyboardInterrupt:
        interrupted = True
    if not names or timings.keys() != names:
        return None, interrupted
    others = [name for name in timings if name != OURS]
    rival = min(others, key=lambda name: timings[name].median)
    pairs = zip(timings[OURS].seconds, timings[rival].seconds, strict=False)  # the last round may be cut
    ratios = Timing([ours / theirs for ours, theirs in pairs])
    found = Contest(
        row,
        work,
        threads,
        len(ratios.seconds),
        {name: 1e3 * one.median for name, one in timings.items()},
        {name: 1e3 * one.low for name, one in timings.items()},
        {name: 1e3 * one.high for name, one in timings.items()},
        rival,
        timings[OURS].median / timings[rival].median,
        ratios.low,
        ratios.high,
    )
    return found, interrupted


def require_equal(what: str, found: Mapping[str, Any]) -> float:
    """Return how far results are from ours at most, relative to our largest number.

    Raises
    ------
    DifferentError
        When that is more than `TOLERANCE`, or shapes differ, or something is no finite number.

    Examples
    --------
    >>> round(require_equal("sums", {"xpcnn": [1.0, 2.0], "other": [1.0, 2.0001]}), 6)
    5e-05
    """
    ours = np.asarray(found[OURS], np.float64)
    largest = 0.0
    for name, values in found.items():
        theirs = np.asarray(values, np.float64)
        if theirs.shape != ours.shape or not np.isfinite(theirs).all():
            raise DifferentError(
                f"{what}: {name} has shape {theirs.shape} for {ours.shape}, or is not finite"
            )
        off = float(np.abs(theirs - ours).max() / np.abs(ours).max())
        if off > TOLERANCE:
            raise DifferentError(f"{what}: {name} is off by {off:.1e}, where {TOLERANCE:.0e} is allowed")
        largest = max(largest, off)
    return largest
