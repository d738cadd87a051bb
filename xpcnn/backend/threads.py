"""Independent tasks on one thread a core, with results in the order of the tasks.

The tasks never depend on the number of threads, and BLAS is held to one thread inside, so neither do the
bits.
"""

from __future__ import annotations

import contextvars
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from xpcnn.arguments import whole
from xpcnn.backend.reference import in_reference

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "THREADS_VARIABLE",
    "ProcessSetting",
    "blas_threads",
    "get_num_threads",
    "map_blocks",
    "one_blas_thread",
    "parallel_for",
    "parallel_map",
    "set_num_threads",
    "use_num_threads",
]

THREADS_VARIABLE = "XPCNN_NUM_THREADS"

Item = TypeVar("Item")
Result = TypeVar("Result")

HANDOVER = 3e-4
"""Seconds that a thread waits for Python's lock at most, while others do short calls one after the other."""

LARGE = 1 << 21
"""Elements from which on a pass over memory gains from a second thread; smaller arrays stay in a cache."""

MOST_THREADS = 4096
"""More than any machine has cores; a larger number is a mistake."""

_chosen: int | None = None
_END = object()


# -- settings of the process ----------------------------------------------------------------

Value = TypeVar("Value")


class _Own(threading.local):
    """What a thread knows of itself: in how many blocks it is, whether it is at a task."""

    depth = 0
    busy = False


_worker = _Own()


class ProcessSetting(Generic[Value]):
    """A setting of the whole process, another one inside ``with`` blocks.

    The first thread to enter a block changes it, and the last to leave restores it. A thread's blocks inside
    another cost no lock. A forked child is in the blocks of the forking thread alone.
    """

    def __init__(
        self, read: Callable[[], Value], write: Callable[[Value], None], inside: Callable[[Value], Value]
    ) -> None:
        self.read, self.write, self._inside = read, write, inside
        self._before: Value | None = None
        self._users, self._lock = 0, threading.Lock()
        self._own = _Own()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def __enter__(self) -> None:
        if self._own.depth == 0:
            with self._lock:
                if self._users == 0:
                    self._before = self.read()
                    self.write(self._inside(self._before))
                self._users += 1
        self._own.depth += 1

    def __exit__(self, *error: object) -> None:
        self._own.depth -= 1
        if self._own.depth == 0:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._before is not None:
                    self.write(self._before)

    def _after_fork(self) -> None:
        changed = self._users > 0 or self._lock.locked()
        self._users, self._lock = min(self._own.depth, 1), threading.Lock()
        if changed and self._users == 0 and self._before is not None:
            self.write(self._before)


@functools.cache
def _libraries() -> list[Any]:
    from threadpoolctl import ThreadpoolController  # here, because looking for libraries takes milliseconds

    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def blas_threads() -> int:
    """Return how many threads NumPy's matrix products use at present."""
    return max(_read_threads(), default=1)


def _read_threads() -> list[int]:
    return [library.num_threads for library in _libraries()]


def _write_threads(counts: list[int]) -> None:
    for library, count in zip(_libraries(), counts, strict=True):
        # From 3.8 on, set_num_threads obeys only the thread that first called it, lest threads fight over
        # the limit. Counting the users settles that here, and the last to leave may be any thread.
        getattr(library, "_real_set_num_threads", library.set_num_threads)(count)


# The bits of a GEMM depend on how many threads share it, and small GEMMs gain nothing from more: on a machine
# whose cores are busy, threads that wait for one another cost several times what they save.
one_blas_thread = ProcessSetting(_read_threads, _write_threads, lambda counts: [1] * len(counts))
"""Holds BLAS to one thread, in all threads of the process, until the last block ends."""

_quick_handover = ProcessSetting(
    sys.getswitchinterval, sys.setswitchinterval, lambda before: min(before, HANDOVER)
)


# -- tasks on threads -----------------------------------------------------------------------


def set_num_threads(count: int | None) -> None:
    """Set how many threads convolutions and models use on the host, for the whole process.

    Results do not depend on it. A GPU does not use them.

    Parameters
    ----------
    count : int or None
        None restores the default: ``$XPCNN_NUM_THREADS``, or else the cores this process may use.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.set_num_threads(2)
    >>> xpcnn.get_num_threads()
    2
    >>> xpcnn.set_num_threads(None)
    """
    global _chosen
    _chosen = None if count is None else whole("set_num_threads: count", count, 1, MOST_THREADS)
    _pool_of.cache_clear()


@contextmanager
def use_num_threads(count: int) -> Iterator[None]:
    """Set how many threads are used inside a ``with`` block, for the whole process."""
    before = _chosen
    set_num_threads(count)
    try:
        yield
    finally:
        set_num_threads(before)


def get_num_threads() -> int:
    """Return how many threads are used."""
    if _chosen is not None:
        return _chosen
    asked = os.environ.get(THREADS_VARIABLE)
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        count: Any = int(asked)
    except ValueError:
        count = asked
    return whole(f"${THREADS_VARIABLE}", count, 1, MOST_THREADS)


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], max_workers: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in their order, computed on several threads.

    With `max_workers`, no more calls than that are made, or have results that wait, at a time. Called on one
    of the threads themselves, with nothing to gain, or in `xpcnn.reference`, it is a plain loop.
    """
    waiting, threads = list(items), _useful_threads(max_workers)
    if threads == 1:
        yield from map(function, waiting)
        return
    at_once = len(waiting) if max_workers is None else threads
    results: dict[int, Result] = {}

    def keep(i: int) -> None:
        results[i] = function(waiting[i])

    for start in range(0, len(waiting), at_once or 1):
        places = range(start, min(start + at_once, len(waiting)))
        parallel_for(keep, places)
        yield from map(results.pop, places)


def parallel_for(
    function: Callable[[Item], object], items: Iterable[Item], max_workers: int | None = None
) -> None:
    """Call ``function(item)`` for each item, on several threads, each taking the next when it is free."""
    waiting = list(items)
    threads = min(_useful_threads(max_workers), len(waiting))
    if threads < 2:
        for item in waiting:
            function(item)
        return
    left, lock = iter(waiting), threading.Lock()

    def work() -> None:
        nonlocal left
        try:
            while True:
                with lock:
                    item: Any = next(left, _END)
                if item is _END:
                    return
                function(item)
        except BaseException:
            left = iter(())  # nobody begins anything new
            raise

    from concurrent.futures import wait

    pool = _pool_of(get_num_threads())
    with one_blas_thread, _quick_handover:
        # Each call sees the settings of its caller, such as `conv_algorithm`.
        others = [pool.submit(contextvars.copy_context().run, work) for _ in range(threads - 1)]
        try:
            _worker.busy = True
            work()
        finally:  # nothing goes on after this
            _worker.busy = False
            started = [other for other in others if not other.cancel()]
            wait(started)
        for other in started:
            other.result()


def map_blocks(function: Callable[[slice], Result], length: int, step: int, elements: float) -> list[Result]:
    """Return ``function(block)`` for the blocks that cut `length`, in order; on threads for many `elements`.

    Blocks depend on sizes alone, so the bits do not depend on the number of threads.
    """
    blocks = (slice(start, min(start + step, length)) for start in range(0, length, step))
    return list((parallel_map if elements >= LARGE else map)(function, blocks))


def _useful_threads(max_workers: int | None) -> int:
    if _worker.busy or in_reference():
        return 1
    threads = get_num_threads()
    return threads if max_workers is None else max(1, min(threads, max_workers))


@functools.cache
def _pool_of(threads: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # here, because it loads a dozen modules

    return ThreadPoolExecutor(threads, "xpcnn", initializer=setattr, initargs=(_worker, "busy", True))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool_of.cache_clear)
