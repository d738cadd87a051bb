"""One BLAS thread while a model runs.

The bits of a GEMM depend on how many threads share it, and small GEMMs gain nothing from more: on a machine
whose cores are busy, threads that wait for one another cost several times what they save.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["one_blas_thread"]

# The limit holds for the whole process, so the first thread to enter sets it and the last to leave lifts it.
_lock = threading.Lock()
_users = 0
_inside = threading.local()  # its `depth`: in how many such blocks this thread is
_libraries: list[Any] | None = None
_before: list[int] = []


def one_blas_thread() -> AbstractContextManager[None]:
    """Hold NumPy's BLAS to one thread, in all threads of the process, until the last such block ends."""
    return _block


class _Block:
    """The block; those that a thread enters inside another are counted, and cost no lock."""

    def __enter__(self) -> None:
        depth = _depth()
        if depth == 0:
            _hold()
        _inside.depth = depth + 1

    def __exit__(self, *error: object) -> None:
        _inside.depth = depth = _depth() - 1
        if depth == 0:
            _release()


_block = _Block()


def _hold() -> None:
    global _users, _before
    with _lock:
        if _users == 0:
            libraries = _found()
            _before = [library.num_threads for library in libraries]
            _set(libraries, [1] * len(libraries))
        _users += 1


def _release() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _set(_found(), _before)


def _depth() -> int:
    depth: int = getattr(_inside, "depth", 0)
    return depth


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


def _reset_in_child() -> None:
    """Release, in a forked child, the limits and the lock that other threads of its parent held."""
    global _lock, _users
    held = _users > 0 or _lock.locked()
    _users, _lock = min(_depth(), 1), threading.Lock()
    if held and _users == 0 and _libraries is not None and len(_before) == len(_libraries):
        _set(_libraries, _before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
