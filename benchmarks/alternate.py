"""Contenders that do the same work in processes of their own, compared and then timed in turns."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.worker import Work

__all__ = ["ROOT", "DifferentError", "Worker", "WorkerError", "in_turns", "require_equal", "start"]

ROOT = Path(__file__).parent.parent

Seconds = dict[str, list[float]]
"""What a call of each contender took, round by round."""


class DifferentError(Exception):
    """Two contenders do not compute the same."""


class WorkerError(Exception):
    """A process could not do what it was asked to, or has ended."""


class Worker:
    """A process with so many threads, which runs one contender over one checkout of xpcnn.

    Nothing that this process has set up, such as its allocator, holds there. While one works the others
    sleep.

    Parameters
    ----------
    contender : str
        One of `benchmarks.worker.CONTENDERS`.
    threads : int
    checkout : Path
        The folder that holds the package `xpcnn`.
    """

    def __init__(self, contender: str, threads: int, checkout: Path = ROOT) -> None:
        self.contender = contender
        counts = {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "MKL", "OMP", "XPCNN")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=checkout,
            env={**os.environ, **counts, "PYTHONPATH": os.pathsep.join(map(str, (checkout, ROOT)))},
            start_new_session=True,  # a terminal's Ctrl-C is for this process alone
        )

    def ask(self, *request: Any) -> Any:
        """Ask for one of the methods of `benchmarks.worker.Server`, and return its answer.

        Raises
        ------
        WorkerError
            When something goes wrong there, with the traceback.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer, failure = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            status = self._process.wait()
            raise WorkerError(f"the process of {self.contender} has ended, with status {status}") from None
        if failure is not None:
            raise WorkerError(f"in the process of {self.contender}:\n{failure}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start(work: Work, workers: Mapping[str, Worker], describer: Worker) -> float:
    """Let workers prepare the same work, once their results are known to be equal.

    Models of other libraries are described by `describer`, one of xpcnn's.

    Returns
    -------
    float
        How far results are from those of the first worker at most.

    Raises
    ------
    DifferentError
        When they do not compute the same.
    """
    plain, made = None, None
    if any(worker.contender != "xpcnn" for worker in workers.values()):
        plain, made = (describer.ask("describe", work, dropout) for dropout in (False, True))
    found = {name: one.ask("results", one.contender, work, plain) for name, one in workers.items()}
    error = require_equal(work.title, found, work.tolerance)
    for worker in workers.values():
        worker.ask("prepare", worker.contender, work, made)
    return error


def require_equal(what: str, found: Mapping[str, Sequence[np.ndarray]], tolerance: float) -> float:
    """Return how far results are from the first ones at most, relative to the largest number of these.

    Raises
    ------
    DifferentError
        When that is more than `tolerance`, or shapes differ, or something is no finite number.

    Examples
    --------
    >>> found = {"xpcnn": [np.array([1.0, 2.0])], "other": [np.array([1.0, 2.0001])]}
    >>> round(require_equal("sums", found, 1e-4), 6)
    5e-05
    """
    first, *others = found
    largest = 0.0
    for name in (first, *others):
        for ours, theirs in zip(found[first], found[name], strict=True):
            if theirs.shape != ours.shape or not np.isfinite(theirs).all():
                raise DifferentError(
                    f"{what}: {name} has shape {theirs.shape} for {ours.shape}, or is not finite"
                )
            off = float(np.abs(np.float64(theirs) - ours).max() / np.abs(ours).max())
            if off > tolerance:
                raise DifferentError(f"{what}: {name} is off by {off:.1e}, where {tolerance:.0e} is allowed")
            largest = max(largest, off)
    return largest


def in_turns(
    workers: Mapping[str, Worker], rounds: int, turn: float, pause: float = 0.0, into: Seconds | None = None
) -> Seconds:
    """Time the prepared calls, in an order that turns around from round to round.

    Parameters
    ----------
    workers : mapping of name to Worker
    rounds : int
    turn : float
        Seconds that a turn lasts at least: quick calls are repeated in it.
    pause : float
        Seconds before each turn in which nothing runs, so that the threads of whoever was last fall asleep.
    into : dict, optional
        What earlier rounds took, to which these are added.
    """
    seconds: Seconds = {} if into is None else into
    once = {name: worker.ask("seconds", 1) for name, worker in workers.items()}
    repeats = {name: max(1, math.ceil(turn / max(one, 1e-6))) for name, one in once.items()}
    order: Iterable[str] = list(workers)
    for _ in range(rounds):
        for name in order:
            time.sleep(pause)
            seconds.setdefault(name, []).append(workers[name].ask("seconds", repeats[name]))
        order = list(reversed(list(order)))
    return seconds
