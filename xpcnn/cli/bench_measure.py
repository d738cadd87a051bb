"""How ``xpcnn bench`` measures: independent answers, turns, memory, threads."""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np

from xpcnn.backend import Backend
from xpcnn.backend.threads import use_num_threads
from xpcnn.errors import XpcnnError
from xpcnn.ops import ConvGeometry

__all__ = ["Candidate", "Problem", "conv_answer", "held_to", "interleaved", "quartiles", "traced_memory"]

_TURN_SECONDS = 0.01
"""A candidate's turn lasts about this long at least: quick calls are repeated in it."""

_SLOW_SECONDS, _SLOW_ROUNDS = 2.0, 3
"""A call that takes this long gets no more turns than these."""

_IMAGES = 3
"""Of a large batch, results that belong to single images are compared on so many of them."""

Name = TypeVar("Name", bound=Hashable)


class WrongResultError(XpcnnError):
    """A result that is further from the answer than rounding explains."""


def require_close(result: np.ndarray, answer: np.ndarray, tolerance: float) -> float:
    """Return the largest difference, relative to the largest expected number.

    Raises
    ------
    WrongResultError
        When it is above the tolerance; for another shape, or numbers that are not finite.

    Examples
    --------
    >>> round(require_close(np.array([1.0, 2.1]), np.array([1.0, 2.0]), tolerance=0.1), 3)
    0.05
    """
    error = math.inf
    if result.shape == answer.shape and np.isfinite(result).all():
        error = float(np.abs(result - answer).max(initial=0) / (np.abs(answer).max(initial=0) or 1))
    if not error <= tolerance:
        raise WrongResultError(f"WRONG: off by {error:.1e} of the largest number, {tolerance:.0e} is allowed")
    return error


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to compute one pass.

    `prepare` returns the call that is timed, which waits for its device; it raises an `XpcnnError` with the
    reason where the candidate cannot do the problem. `evidence` returns what is compared with the answer,
    given a result of that call; None for what computes no result. `variant` is what `auto` chose, or a memory
    layout.
    """

    algorithm: str
    pass_name: str
    prepare: Callable[[], Callable[[], Any]]
    evidence: Callable[[Any], np.ndarray] | None
    variant: str = ""


@dataclass(frozen=True)
class Problem:
    """What the candidates are to compute: operations and the answer by pass, and the largest error."""

    name: str
    description: str
    candidates: list[Candidate]
    operations: Callable[[str], float]
    answer: Callable[[str], np.ndarray]
    tolerance: float

    def verified(self, candidate: Candidate) -> tuple[Callable[[], Any], float | None]:
        """Prepare a candidate, and return its call and the error of its result, where it computes one.

        It raises an `XpcnnError` with its reason when it cannot do the problem, and a `WrongResultError` when
        its result is wrong.
        """
        try:
            call = candidate.prepare()
            result = call()
            if candidate.evidence is None:
                return call, None
            found = candidate.evidence(result)
        except MemoryError as error:
            raise XpcnnError(f"ran out of memory: {error}") from error
        return call, require_close(found, self.answer(candidate.pass_name), self.tolerance)


def some_of(images: int) -> list[int]:
    """Return the first, the middle and the last of so many images."""
    return sorted({0, images // 2, images - 1}) if images > _IMAGES else list(range(images))


def conv_answer(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray], geometry: ConvGeometry, pass_name: str
) -> np.ndarray:
    """Return the result of a pass over (x, weight, dy), of `some_of` the images where it belongs to them.

    It is summed tap by tap over shifted slices in float64, without the ops.
    """
    x, weight, dy = (np.asarray(array, np.float64) for array in arrays)
    if pass_name != "grad_weight":
        x, dy = x[some_of(geometry.n)], dy[some_of(geometry.n)]
    top, bottom, left, right = geometry.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    channels, outputs = weight.shape[1], geometry.k // geometry.groups
    y, dpadded, dweight = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(weight)
    (oh, ow), (sh, sw), (dh, dw) = geometry.output_size, geometry.stride, geometry.dilation
    for r, s, group in product(range(geometry.kernel[0]), range(geometry.kernel[1]), range(geometry.groups)):
        rows = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh)
        columns = slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
        ins = slice(group * channels, (group + 1) * channels)
        outs = slice(group * outputs, (group + 1) * outputs)
        tap, seen = weight[outs, :, r, s], padded[:, ins, rows, columns]
        if pass_name == "forward":
            y[:, outs] += _mixed(tap, seen)
        elif pass_name == "grad_input":
            dpadded[:, ins, rows, columns] += _mixed(tap.T, dy[:, outs])
        else:
            dweight[outs, :, r, s] = np.tensordot(dy[:, outs], seen, axes=((0, 2, 3), (0, 2, 3)))
    dx = dpadded[:, :, top : top + geometry.h, left : left + geometry.w]
    return {"forward": y, "grad_input": dx, "grad_weight": dweight}[pass_name]


def _mixed(matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return images (N, A, H, W) with their channels multiplied by a matrix (B, A)."""
    return np.moveaxis(np.tensordot(matrix, images, axes=((1,), (1,))), 0, 1)


def interleaved(
    calls: Mapping[Name, Callable[[], Any]],
    rounds: int,
    into: dict[Name, list[float]],
    turn: float = _TURN_SECONDS,
) -> None:
    """Time calls in turns, and add the seconds of each round to `into`, which is filled on the way.

    All candidates have a turn in each round, so clock drift affects all of them equally. Every call must wait
    for its device itself. One call of each, which is not counted, warms it up and says how often it is
    repeated in a turn.
    """
    once = {name: _seconds(call, 1) for name, call in calls.items()}
    for done in range(rounds):
        for name, call in calls.items():
            if done < _SLOW_ROUNDS or once[name] < _SLOW_SECONDS:
                repeats = max(1, min(10_000, math.ceil(turn / max(once[name], 1e-7))))
                into.setdefault(name, []).append(_seconds(call, repeats))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) / repeats


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile.

    Examples
    --------
    >>> quartiles([3.0, 1.0, 2.0, 5.0, 4.0]), quartiles([2.0])
    ((2.0, 3.0, 4.0), (2.0, 2.0, 2.0))
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def traced_memory(call: Callable[[], Any]) -> tuple[int, int]:
    """Return the most bytes that NumPy held at one time during a call, and those of its result."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = call()
        after, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return peak - before, max(0, after - before)


@contextmanager
def held_to(backend: Backend, threads: int) -> Iterator[None]:
    """Compute on `backend` with so many threads: xpcnn's own, BLAS's and OpenMP's."""
    from threadpoolctl import threadpool_limits

    run = backend.execution_context() if threads == 1 else backend.activated()
    with use_num_threads(threads), threadpool_limits(limits=threads), run:
        yield
