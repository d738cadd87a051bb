"""What the machine could do at best: a large matrix product, and a large copy."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Backend, itemsize
from xpcnn.bench.calls import gemm, waited
from xpcnn.bench.timing import interleaved

__all__ = ["roofs"]

_SIZE = {True: 4096, False: 1024}
"""Rows and columns of the matrices, on devices whose results must be waited for, and on others."""

_BYTES = {True: 1 << 30, False: 1 << 26}


def roofs(backend: Backend, dtype: str, rounds: int = 5) -> dict[str, float]:
    """Return the rate of a square matrix product, and of a copy that no cache holds.

    Returns
    -------
    dict
        ``gemm_gflops``, and ``copy_gbytes``: 10⁹ bytes read and written in a second.
    """
    xp, device = backend.xp, not backend.reads_are_free
    size = _SIZE[device]
    options: dict[str, Any] = {"dtype": backend.dtype(dtype), "device": backend.device}
    matrix = xp.ones((size, size), **options)
    numbers = _BYTES[device] // itemsize(dtype)
    source, target = xp.ones((numbers,), **options), xp.zeros((numbers,), **options)

    def copy() -> Any:
        target[...] = source
        return waited(backend, target)

    known = interleaved({"gemm": gemm(backend, matrix, matrix), "copy": copy}, rounds)
    return {
        "gemm_gflops": 2 * size**3 / known["gemm"].median / 1e9,
        "copy_gbytes": 2 * _BYTES[device] / known["copy"].median / 1e9,
    }
