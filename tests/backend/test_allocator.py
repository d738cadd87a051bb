"""Freed memory is kept for the next step, within a bound, and given back on request."""

from __future__ import annotations

import pytest

from tests.support.backend import run_python
from xpcnn.backend import allocator

CODE = """
import sys
import numpy as np
import xpcnn
from xpcnn.backend.allocator import keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if "keep" in sys.argv:
    print(keep_freed_memory())
before = resident()
blocks = [np.ones(2 << 20, dtype=np.uint8) for _ in range(40)]  # 80 MiB
del blocks
print(resident() - before)
xpcnn.release_memory()
print(resident() - before)
"""


pytestmark = pytest.mark.process
needs_glibc = pytest.mark.skipif(allocator._glibc() is None, reason="the allocator is not glibc's")


@needs_glibc
def test_freed_memory_is_kept_and_released() -> None:
    kept, after, released = run_python(CODE, "keep").stdout.split()
    assert kept == "True"
    assert int(after) > 70 << 20
    assert int(released) < 30 << 20
    after, _ = run_python(CODE).stdout.split()
    assert int(after) < 20 << 20  # without being told to


@needs_glibc
def test_the_users_own_settings_are_left_alone() -> None:
    assert run_python(CODE, "keep", MALLOC_TRIM_THRESHOLD_="1000000").stdout.startswith("False")


def test_other_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator.keep_freed_memory.cache_clear()
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    try:
        assert not allocator.keep_freed_memory()
        allocator.release_freed_memory()
    finally:
        allocator.keep_freed_memory.cache_clear()
