"""One BLAS thread while a model runs.

The bits of a GEMM depend on how many threads share it, and small GEMMs gain nothing from more: on a machine
whose cores are busy, threads that wait for one another cost several times what they save.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["one_blas_thread"]

# The limit holds for the whole process, so the first to enter sets it and the last to leave lifts it.
_lock = threading.Lock()
_users = 0
_libraries: list[Any] | None = None
_before: list[int] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold NumPy's BLAS to one thread, in all threads of the process, until the last such block ends."""
    global _users, _before
    with _lock:
        if _users == 0:
            libraries = _found()
            _before = [library.num_threads for library in libraries]
            _set(libraries, [1] * len(libraries))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set(_found(), _before)


def _found() -> list[Any]:
    global _libraries
    if _libraries is None:  # looking for them takes milliseconds
        from threadpoolctl import ThreadpoolController

        _libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return _libraries


def _set(libraries: list[Any], counts: list[int]) -> None:
    for library, count in zip(libraries, counts, strict=True):
        # From 3.8 on, set_num_threads obeys only the thread that first called it, lest threads fight over
        # the limit. Counting the users settles that here, and the last to leave may be any thread.
        getattr(library, "_real_set_num_threads", library.set_num_threads)(count)
