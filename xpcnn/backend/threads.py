"""Independent tasks on one thread a core, with results in the order of the tasks.

The tasks never depend on the number of threads, and BLAS is held to one thread inside, so neither do the
bits.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from xpcnn.backend.reference import in_reference
from xpcnn.errors import ArgumentError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "THREADS_VARIABLE",
    "get_num_threads",
    "on_threads",
    "one_blas_thread",
    "run_on_threads",
    "set_num_threads",
    "use_num_threads",
]

THREADS_VARIABLE = "XPCNN_NUM_THREADS"

Item = TypeVar("Item")
Result = TypeVar("Result")

HANDOVER = 3e-4
"""Seconds that a thread waits for Python's lock at most, while others do short calls one after the other."""

MOST_THREADS = 4096
"""More than any machine has cores; a larger number is a mistake."""

_MOST_DIGITS = 20

_chosen: int | None = None
_runs, _interval, _runs_lock = 0, sys.getswitchinterval(), threading.Lock()
_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_worker = threading.local()
_inside = threading.local()  # `runs`: how many are this thread's own; `depth`: of the blocks it is in


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
    from xpcnn.backend.numbers import plain  # here, because `numbers` imports the backends

    count = plain(count)
    if count is not None and (type(count) is not int or not 1 <= count <= MOST_THREADS):
        raise ArgumentError(
            f"set_num_threads: count must be an int from 1 to {MOST_THREADS} or None, got {count!r}"
        )
    _chosen = count
    _forget_pool()


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
    # Python refuses to convert numbers of thousands of digits, with an error of its own.
    if not asked.isdecimal() or len(asked) > _MOST_DIGITS or not 1 <= int(asked) <= MOST_THREADS:
        shown = repr(asked) if len(asked) <= 40 else f"{asked[:40]!r}…"
        raise ArgumentError(
            f"${THREADS_VARIABLE} must be a number of threads from 1 to {MOST_THREADS}, got {shown}"
        )
    return int(asked)


def on_threads(
    function: Callable[[Item], Result], items: Iterable[Item], at_most: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in their order, computed on several threads.

    With `at_most`, no more calls than that are made, or have results that wait, at a time. Called on one of
    the threads themselves, with nothing to gain, or in `xpcnn.reference`, it is a plain loop.
    """
    threads = _useful_threads(at_most)
    if at_most is None and threads > 1:
        yield from _all_results(function, list(items))
        return
    items = iter(items)
    while batch := list(islice(items, threads)):
        if len(batch) == 1:
            yield function(batch[0])
            continue
        with _together(), _started([partial(function, item) for item in batch[1:]]) as others:
            with _as_worker():
                first = function(batch[0])
            results = [first, *(other.result() for other in others)]
        yield from results


def run_on_threads(
    function: Callable[[Item], object], items: Iterable[Item], at_most: int | None = None
) -> None:
    """Call ``function(item)`` for each item, on several threads, each taking the next when it is free."""
    waiting = list(items)
    threads = min(_useful_threads(at_most), len(waiting))
    if threads < 2:
        for item in waiting:
            function(item)
        return
    left = iter(waiting)
    lock = threading.Lock()

    def work() -> None:
        nonlocal left
        try:
            while True:
                with lock:
                    taken = list(islice(left, 1))
                if not taken:
                    return
                function(taken[0])
        except BaseException:
            left = iter(())  # nobody begins anything new
            raise

    with _together(), _started([work] * (threads - 1)) as others, _as_worker():
        work()
        for other in others:
            other.result()


def _all_results(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    found: dict[int, Result] = {}

    def keep(i: int) -> None:
        found[i] = function(items[i])

    run_on_threads(keep, range(len(items)))
    return [found[i] for i in range(len(items))]


@contextmanager
def _together() -> Iterator[None]:
    """Prepare the process for several threads at work."""
    global _runs, _interval
    with one_blas_thread():
        with _runs_lock:
            if _runs == 0:
                _interval = sys.getswitchinterval()
                sys.setswitchinterval(min(_interval, HANDOVER))
            _runs += 1
            _inside.runs = _own_runs() + 1
        try:
            yield
        finally:
            with _runs_lock:
                _runs -= 1
                _inside.runs = _own_runs() - 1
                if _runs == 0:
                    sys.setswitchinterval(_interval)


def _own_runs() -> int:
    runs: int = getattr(_inside, "runs", 0)
    return runs


def _useful_threads(at_most: int | None) -> int:
    if getattr(_worker, "busy", False) or in_reference():
        return 1
    threads = get_num_threads()
    return threads if at_most is None else max(1, min(threads, at_most))


@contextmanager
def _started(calls: list[Callable[[], Result]]) -> Iterator[list[Future[Result]]]:
    """Have calls made by other threads inside a ``with`` block; none goes on after it."""
    pool = _pool_of(get_num_threads())
    # Each call sees the settings of its caller, such as `conv_algorithm`.
    futures = [pool.submit(contextvars.copy_context().run, call) for call in calls]
    try:
        yield futures
    finally:
        for future in futures:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                future.exception()


@contextmanager
def _as_worker() -> Iterator[None]:
    """Let what is called inside start no further threads."""
    _worker.busy = True
    try:
        yield
    finally:
        _worker.busy = False


def _pool_of(threads: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor  # here, because it loads a dozen modules

            _pool = ThreadPoolExecutor(threads, "xpcnn", initializer=_begin_worker)
        return _pool


def _begin_worker() -> None:
    _worker.busy = True


def _forget_pool() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


# The bits of a GEMM depend on how many threads share it, and small GEMMs gain nothing from more: on a machine
# whose cores are busy, threads that wait for one another cost several times what they save.
#
# The limit holds for the whole process, so the first thread to enter sets it and the last to leave lifts it.
_blas_lock = threading.Lock()
_blas_users = 0
_libraries: list[Any] | None = None
_before: list[int] = []


def one_blas_thread() -> AbstractContextManager[None]:
    """Hold NumPy's BLAS to one thread, in all threads of the process, until the last such block ends."""
    return _one_blas_thread


class _OneBlasThread:
    """The block; those that a thread enters inside another are counted, and cost no lock."""

    def __enter__(self) -> None:
        depth = _depth()
        if depth == 0:
            _hold_blas()
        _inside.depth = depth + 1

    def __exit__(self, *error: object) -> None:
        _inside.depth = depth = _depth() - 1
        if depth == 0:
            _release_blas()


_one_blas_thread = _OneBlasThread()


def _hold_blas() -> None:
    global _blas_users, _before
    with _blas_lock:
        if _blas_users == 0:
            libraries = _blas()
            _before = [library.num_threads for library in libraries]
            _set_blas(libraries, [1] * len(libraries))
        _blas_users += 1


def _release_blas() -> None:
    global _blas_users
    with _blas_lock:
        _blas_users -= 1
        if _blas_users == 0:
            _set_blas(_blas(), _before)


def _depth() -> int:
    depth: int = getattr(_inside, "depth", 0)
    return depth


def _blas() -> list[Any]:
    global _libraries
    if _libraries is None:  # looking for them takes milliseconds
        from threadpoolctl import ThreadpoolController

        _libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return _libraries


def _set_blas(libraries: list[Any], counts: list[int]) -> None:
    for library, count in zip(libraries, counts, strict=True):
        # From 3.8 on, set_num_threads obeys only the thread that first called it, lest threads fight over
        # the limit. Counting the users settles that here, and the last to leave may be any thread.
        getattr(library, "_real_set_num_threads", library.set_num_threads)(count)


def _reset_in_child() -> None:
    """Release, in a forked child, the pool, the runs, the limits and the locks of other threads."""
    global _runs, _runs_lock, _blas_lock, _blas_users
    _forget_pool()
    held = _runs > 0 or _runs_lock.locked()
    _runs, _runs_lock = _own_runs(), threading.Lock()
    if held and _runs == 0:
        sys.setswitchinterval(_interval)
    held = _blas_users > 0 or _blas_lock.locked()
    _blas_users, _blas_lock = min(_depth(), 1), threading.Lock()
    if held and _blas_users == 0 and _libraries is not None and len(_before) == len(_libraries):
        _set_blas(_libraries, _before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
