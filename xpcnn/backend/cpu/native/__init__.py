"""Compiled kernels for NumPy's arrays: C++ through ctypes, in versions for the processor's instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xpcnn.backend.cpu.native import norm, primitives
from xpcnn.backend.cpu.native.library import why_absent

__all__ = ["table"]


def table() -> dict[str, Callable[..., Any]]:
    """Return the kernels by the names of the primitives they replace; none where they were not built."""
    return {} if why_absent() else {**primitives.KERNELS, **norm.KERNELS}
