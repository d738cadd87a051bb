"""Work that falls into independent pieces, on one thread a core, with results in the order of the pieces.

The pieces never depend on the number of threads, and BLAS is held to one thread inside, so neither do the
bits.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from xpcnn.backend.blas import one_blas_thread
from xpcnn.errors import ArgumentError

__all__ = ["THREADS_VARIABLE", "get_num_threads", "on_threads", "set_num_threads"]

THREADS_VARIABLE = "XPCNN_NUM_THREADS"

Item = TypeVar("Item")
Result = TypeVar("Result")

_chosen: int | None = None
_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_worker = threading.local()


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
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ArgumentError(f"set_num_threads: count must be a positive int or None, got {count!r}")
    _chosen = count
    _forget_pool()


def get_num_threads() -> int:
    """Return how many threads are used."""
    if _chosen is not None:
        return _chosen
    asked = os.environ.get(THREADS_VARIABLE)
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise ArgumentError(f"${THREADS_VARIABLE} must be a positive number of threads, got {asked!r}")
    return int(asked)


def on_threads(
    function: Callable[[Item], Result], items: Iterable[Item], at_most: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in their order, computed on several threads.

    No more than `at_most` calls run, or have results that wait to be taken, at a time. Called on one of the
    threads themselves, or with nothing to gain, it is a plain loop.
    """
    threads = get_num_threads() if at_most is None else min(get_num_threads(), at_most)
    if threads < 2 or getattr(_worker, "busy", False):
        yield from map(function, items)
        return
    items = iter(items)
    first = list(islice(items, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    waiting: deque[Future[Result]] = deque()
    with one_blas_thread():
        pool = _pool_of(get_num_threads())

        def start(item: Item) -> None:
            # Each call sees the settings of its caller, such as `conv_algorithm`.
            waiting.append(pool.submit(contextvars.copy_context().run, function, item))

        try:
            for item in (*first, *islice(items, threads - 2)):
                start(item)
            while waiting:
                result = waiting.popleft().result()
                for item in islice(items, 1):
                    start(item)
                yield result
        finally:
            for future in waiting:  # after an error: nothing may go on writing
                future.cancel()
            for future in waiting:
                if not future.cancelled():
                    future.exception()


def _pool_of(threads: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(threads, "xpcnn", initializer=_begin_worker)
        return _pool


def _begin_worker() -> None:
    _worker.busy = True


def _forget_pool() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
