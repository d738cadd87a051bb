"""How much memory a call takes: counted by the library that hands it out."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn.backend.base import Backend

__all__ = ["MemoryUse", "memory_use"]


class MemoryUse(NamedTuple):
    """What a call allocated, in bytes.

    Attributes
    ----------
    peak : int
        The most that was held at one time, beside what was there before.
    kept : int
        What was still held after the call: its result.
    """

    peak: int
    kept: int

    @property
    def workspace(self) -> int:
        """The peak without the result."""
        return self.peak - self.kept


def memory_use(backend: Backend, call: Callable[[], Any]) -> MemoryUse | None:
    """Call once, and return what it allocated; None where nothing counts that (PyTorch on a CPU).

    NumPy's arrays are counted by `tracemalloc`, which slows Python down; CuPy's where its memory pool hands
    them out, and rounds them up to 512 bytes; PyTorch's on a GPU by PyTorch.

    Examples
    --------
    >>> import numpy as np, xpcnn
    >>> with xpcnn.use_backend("numpy") as backend:
    ...     use = memory_use(backend, lambda: (np.ones(1 << 20, dtype="int8") * 2)[:5].copy())
    >>> round(use.peak / (1 << 20)), use.kept < 10_000
    (2, True)
    """
    counters = {"numpy": _on_host, "array_api_strict": _on_host, "cupy": _in_pool, "torch": _in_torch}
    counter = counters.get(backend.name)
    return None if counter is None else counter(backend, call)


def _on_host(backend: Backend, call: Callable[[], Any]) -> MemoryUse:
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        result = call()
        after, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        if started:
            tracemalloc.stop()
    return MemoryUse(peak - before, max(0, after - before))


def _in_pool(backend: Backend, call: Callable[[], Any]) -> MemoryUse:
    import cupy

    class Counter(cupy.cuda.MemoryHook):
        """Follows the pool's blocks; those that were handed out before are none of its business."""

        name = "xpcnn memory use"

        def __init__(self) -> None:
            self.sizes: dict[int, int] = {}
            self.held = self.peak = 0

        def malloc_postprocess(self, **block: Any) -> None:
            self.sizes[block["mem_ptr"]] = block["mem_size"]
            self.held += block["mem_size"]
            self.peak = max(self.peak, self.held)

        def free_postprocess(self, **block: Any) -> None:
            self.held -= self.sizes.pop(block["mem_ptr"], 0)

    backend.synchronize()
    with Counter() as counter:
        result = call()
        backend.synchronize()
        use = MemoryUse(counter.peak, counter.held)
        del result
    return use


def _in_torch(backend: Backend, call: Callable[[], Any]) -> MemoryUse | None:
    import torch

    if backend.device.type != "cuda":
        return None
    backend.synchronize()
    before = torch.cuda.memory_allocated(backend.device)
    torch.cuda.reset_peak_memory_stats(backend.device)
    result = call()
    backend.synchronize()
    peak = torch.cuda.max_memory_allocated(backend.device)
    kept = torch.cuda.memory_allocated(backend.device)
    del result
    return MemoryUse(peak - before, kept - before)
