"""NumPy's own versions of the primitives that take most of a network's time.

They hold to NumPy alone, and gain by working through channels-last memory in blocks that stay in a cache, by
writing where the result is to be (``out=``), and by handing ufuncs long contiguous operands: a scalar or a
repeated row costs `numpy.maximum` and its like two to three times what an array of the same length costs.

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
    found: dict[str, Callable[..., Any]] = {}
    for family in (gemm, mec, norm, winograd):
        found.update(family.KERNELS)
    return found
