"""One thread for NumPy's BLAS while several of ours work, or a model runs.

The bits of a GEMM depend on how many threads share it, and small GEMMs gain nothing from more: on a machine
whose cores are busy, threads that wait for one another cost several times what they save.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["ProcessSetting", "blas_threads", "one_blas_thread"]

Value = TypeVar("Value")


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
        self._own = threading.local()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def __enter__(self) -> None:
        depth = self._depth()
        if depth == 0:
            with self._lock:
                if self._users == 0:
                    self._before = self.read()
                    self.write(self._inside(self._before))
                self._users += 1
        self._own.depth = depth + 1

    def __exit__(self, *error: object) -> None:
        self._own.depth = depth = self._depth() - 1
        if depth == 0:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._before is not None:
                    self.write(self._before)

    def _depth(self) -> int:
        depth: int = getattr(self._own, "depth", 0)
        return depth

    def _after_fork(self) -> None:
        changed = self._users > 0 or self._lock.locked()
        self._users, self._lock = min(self._depth(), 1), threading.Lock()
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


one_blas_thread = ProcessSetting(_read_threads, _write_threads, lambda counts: [1] * len(counts))
"""Holds BLAS to one thread, in all threads of the process, until the last block ends."""
