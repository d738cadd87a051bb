"""NumPy's own versions of the primitives that take most of a network's time.

They hold to NumPy alone, stand in where the compiled kernels (`native`) are absent, and gain by working
through channels-last memory in blocks that stay in a cache.

A family is a module with its ``KERNELS``: each takes what the `primitive` of its name takes, keeps nothing
between calls, runs on the calling thread alone, and answers `NotImplemented` where it does not serve the
arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xpcnn.backend.cpu import gemm, mec, norm, winograd

__all__ = ["table"]


def table() -> Mapping[str, Callable[..., Any]]:
    """Return the kernels by the names of the primitives they replace."""
    return {**gemm.KERNELS, **mec.KERNELS, **norm.KERNELS, **winograd.KERNELS}
