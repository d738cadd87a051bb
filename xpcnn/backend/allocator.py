"""Memory that one step has freed is kept for the next: fresh pages cost more to get than to fill.

glibc's allocator hands large arrays back to the system as soon as they are freed, and the next array of that
size is given pages that the kernel must first clear. Told not to, it is the arena that a framework would
otherwise build: one heap a thread, bounded, and no array is ever part of two results.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Any

__all__ = ["keep_freed_memory", "release_freed_memory"]

KEPT = 256 << 20
"""Bytes that may lie free at the end of a heap."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_IN_HEAP = 32 << 20  # glibc accepts no more
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed, from now on; return whether it does.

    It does nothing where the user has set the allocator up by its environment variables, or the allocator is
    not glibc's.
    """
    libc = _glibc()
    if libc is None or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    return bool(libc.mallopt(_M_TRIM_THRESHOLD, KEPT) and libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP))


def release_freed_memory() -> None:
    """Give memory that is free back to the system."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "malloc_trim") else None
