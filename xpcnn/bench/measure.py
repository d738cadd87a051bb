"""One problem, its contestants, and what comes of timing them: verified first, then round by round."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np

from xpcnn.backend import Backend
from xpcnn.backend.memory import MemoryUse, memory_use
from xpcnn.bench.oracle import Expected, relative_error
from xpcnn.bench.timing import BLOCK_SECONDS, Timing, interleaved
from xpcnn.errors import XpcnnError
from xpcnn.io import Range

__all__ = [
    "FLOOR",
    "OURS",
    "PLAIN_LOOP",
    "Contestant",
    "Problem",
    "Ready",
    "Result",
    "WrongResultError",
    "measure",
    "ready",
]

FLOOR = "gemm floor"
"""The contestant that is one matrix product and nothing else."""

OURS = "xpcnn"
"""The contestant that is ours, where there is no choice of algorithm."""

_Positive = Annotated[float, Range(0, above=True)]

PLAIN_LOOP = "plain loop"
"""The contestant that is the loop of from-scratch articles; see `loops`."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """One way to compute one pass.

    Attributes
    ----------
    algorithm, pass_name : str
    prepare : callable
        Returns the call that is timed, which waits for its device; raises an `XpcnnError` with the reason
        where the contestant cannot do the problem.
    evidence : callable
        Returns what is held against the answer, given a result of that call: the same on the host.
    counted : Backend or None
        Whose memory the call uses; None where it is not known.
    verified : bool
        False for what computes no result: the floor.
    variant : str
        What sets it apart from others of the same name, of which the fastest is kept: a memory layout.
    """

    algorithm: str
    pass_name: str
    prepare: Callable[[], Callable[[], Any]]
    evidence: Callable[[Any], np.ndarray]
    counted: Backend | None = None
    verified: bool = True
    variant: str = ""


@dataclass(frozen=True)
class Problem:
    """What the contestants are to compute.

    Attributes
    ----------
    name, description : str
    contestants : list of Contestant
    operations, traffic : callable
        Floating-point operations of a pass, and the bytes it must at least read and write; 0 where a number
        of bytes says nothing.
    expected : callable
        The answer of a pass.
    tolerance : float
        The relative error above which a result is wrong.
    """

    name: str
    description: str
    contestants: list[Contestant]
    operations: Callable[[str], float]
    traffic: Callable[[str], float]
    expected: Callable[[str], Expected]
    tolerance: float


@dataclass(frozen=True)
class Result:
    """What was found of one contestant: its times, or the reason why there are none.

    Attributes
    ----------
    geometry, description, algorithm, pass_name : str
    ms, low_ms, high_ms, best_ms : float or None
        The median of the rounds, its quartiles, and the least.
    rounds : int
    gflops : float or None
        10⁹ operations of the direct method in a second, whatever the algorithm saves.
    gbytes : float or None
        10⁹ bytes that must move, in a second.
    operations, traffic : float
    floor_ratio : float or None
        The time beside that of the matrix product.
    peak_bytes, workspace_bytes : int or None
        The most memory at one time, and that without the result.
    error : float or None
        Relative to the largest expected number.
    reason : str or None
        Why it was not timed.
    wrong : bool
        True where the reason is a wrong result.
    variant : str
        The fastest one's, where there were several; see `Contestant`.
    """

    geometry: str
    description: str
    algorithm: str
    pass_name: str
    operations: float
    traffic: float
    ms: _Positive | None = None
    low_ms: _Positive | None = None
    high_ms: _Positive | None = None
    best_ms: _Positive | None = None
    rounds: int = 0
    gflops: float | None = None
    gbytes: float | None = None
    floor_ratio: float | None = None
    peak_bytes: int | None = None
    workspace_bytes: int | None = None
    error: float | None = None
    reason: str | None = None
    wrong: bool = False
    variant: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what is kept of it: what is known. (Not by `in`: 0.0 equals False.)"""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value is not False and value != ""
        }


@dataclass(frozen=True)
class Ready:
    """A contestant whose result is right, and what is known of it before it is timed."""

    call: Callable[[], Any]
    error: float | None
    memory: MemoryUse | None


def ready(problem: Problem, contestant: Contestant, expected: Expected) -> Ready:
    """Prepare a contestant, hold its result against the answer, and count its memory.

    Raises
    ------
    XpcnnError
        With its reason, when it cannot do the problem.
    WrongResultError
        When it does it wrong.
    """
    try:
        call = contestant.prepare()
        result = call()
    except MemoryError as error:
        raise XpcnnError(f"ran out of memory: {error}") from error
    off = None
    if contestant.verified:
        off = relative_error(contestant.evidence(result), expected)
        if not off <= problem.tolerance:
            raise WrongResultError(off, problem.tolerance)
    del result
    memory = None if contestant.counted is None else memory_use(contestant.counted, call)
    return Ready(call, off, memory)


class WrongResultError(XpcnnError):
    """A result that is further from the answer than rounding explains."""

    def __init__(self, error: float, tolerance: float) -> None:
        super().__init__(f"WRONG: off by {error:.1e} of the largest number, where {tolerance:.0e} is allowed")


def measure(
    problem: Problem, rounds: int, block: float = BLOCK_SECONDS
) -> tuple[list[Result], KeyboardInterrupt | None]:
    """Verify every contestant, time them all, and return the results in their order.

    Returns
    -------
    results : list of Result
    interrupted : KeyboardInterrupt or None
        What cut the rounds short; the results are those of what was timed until then.
    """
    expected = functools.cache(problem.expected)
    in_form: dict[Contestant, Ready] = {}
    results: dict[Contestant, Result] = {}
    timings: dict[Contestant, Timing] = {}
    interrupted = None
    try:
        for one in problem.contestants:
            try:
                in_form[one] = ready(problem, one, expected(one.pass_name))
            except XpcnnError as error:
                wrong = isinstance(error, WrongResultError)
                results[one] = replace(_blank(problem, one), reason=str(error), wrong=wrong)
        interleaved({one: known.call for one, known in in_form.items()}, rounds, block, timings)
    except KeyboardInterrupt as error:
        interrupted = error
    for one, timing in timings.items():
        results[one] = _timed(_blank(problem, one), in_form[one], timing)
    ordered = [results[one] for one in problem.contestants if one in results]
    return _beside_the_floor(_fastest_variants(ordered)), interrupted


def _blank(problem: Problem, one: Contestant) -> Result:
    work = problem.operations(one.pass_name), problem.traffic(one.pass_name)
    return Result(problem.name, problem.description, one.algorithm, one.pass_name, *work, variant=one.variant)


def _timed(blank: Result, known: Ready, timing: Timing) -> Result:
    return replace(
        blank,
        ms=1e3 * timing.median,
        low_ms=1e3 * timing.low,
        high_ms=1e3 * timing.high,
        best_ms=1e3 * timing.best,
        rounds=len(timing.seconds),
        gflops=blank.operations / timing.median / 1e9,
        gbytes=blank.traffic / timing.median / 1e9 or None,
        peak_bytes=None if known.memory is None else known.memory.peak,
        workspace_bytes=None if known.memory is None else known.memory.workspace,
        error=known.error,
    )


def _fastest_variants(results: Iterable[Result]) -> list[Result]:
    kept: dict[tuple[str, str], Result] = {}
    for result in results:
        other = kept.setdefault((result.algorithm, result.pass_name), result)
        if result.ms is not None and (other.ms is None or result.ms < other.ms):
            kept[result.algorithm, result.pass_name] = result
    return list(kept.values())


def _beside_the_floor(results: list[Result]) -> list[Result]:
    floors = {result.pass_name: result.ms for result in results if result.algorithm == FLOOR}
    return [
        replace(result, floor_ratio=result.ms / floor)
        if result.ms is not None and (floor := floors.get(result.pass_name))
        else result
        for result in results
    ]
