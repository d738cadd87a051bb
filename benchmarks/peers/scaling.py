"""Whether time grows in proportion to the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.peers.contest import BLOCK_SECONDS
from benchmarks.peers.networks import batch_of
from xpcnn import models
from xpcnn.bench.geometries import NetworkCase
from xpcnn.bench.timing import Timing, interleaved
from xpcnn.train import predict

__all__ = ["IMAGES", "Scaling", "fit", "scaling"]

IMAGES = (50, 100, 200, 400)


@dataclass(frozen=True)
class Scaling:
    """Times of one call for so many images, and the line through them.

    Attributes
    ----------
    row, work : str
    threads, rounds : int
    ms : dict of str to float
        Medians, by the number of images.
    ms_per_image, ms_at_0 : float
        Of the line.
    off : float
        How far a time is from the line at most, relative to the time.
    exponent : float
        Of the power law through the times: 1 is linear.
    """

    row: str
    work: str
    threads: int
    rounds: int
    ms: dict[str, float]
    ms_per_image: float
    ms_at_0: float
    off: float
    exponent: float

    def to_json(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {"kind": "scaling", **asdict(self)}


def scaling(
    row: str,
    work: str,
    threads: int,
    case: NetworkCase,
    rounds: int,
    images: Sequence[int] = IMAGES,
    block: float = BLOCK_SECONDS,
) -> tuple[Scaling | None, bool]:
    """Time inference of so many images at once, in turns; returns what `contest` does."""
    model = models.build(case.model, **case.options)
    every, _ = batch_of(case._replace(shape=(max(images), *case.shape[1:])))
    calls = {count: lambda n=count: predict(model, every[:n], batch_size=n) for count in images}
    timings: dict[int, Timing] = {}
    interrupted = False
    try:
        interleaved(calls, rounds, block, timings)
    except KeyboardInterrupt:
        interrupted = True
    if timings.keys() != calls.keys():
        return None, interrupted
    ms = [1e3 * timings[count].median for count in images]
    known = {str(count): one for count, one in zip(images, ms, strict=True)}
    rounds = min(len(one.seconds) for one in timings.values())
    return Scaling(row, work, threads, rounds, known, *fit(images, ms)), interrupted


def fit(images: Sequence[int], ms: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the slope and the intercept of a line, the largest relative distance from it, and the exponent.

    Examples
    --------
    >>> [round(number, 6) for number in fit((50, 100, 200), (6.0, 11.0, 21.0))]
    [0.1, 1.0, 0.0, 0.903677]
    """
    counts, times = np.array(images, float), np.array(ms)
    # Weighted so that relative distances are what is made small.
    slope, start = np.polyfit(counts, times, 1, w=1 / times)
    off = float(np.abs((slope * counts + start) / times - 1).max())
    exponent = float(np.polyfit(np.log(counts), np.log(times), 1)[0])
    return float(slope), float(start), off, exponent
