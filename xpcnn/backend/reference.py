"""Reference mode: everything that is there for speed alone is switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["in_reference", "reference_mode"]

_reference: ContextVar[bool] = ContextVar("xpcnn_reference", default=False)


in_reference = _reference.get
"""Return whether the definition itself is to run: no kernels, tiles, fusion or threads."""


@contextmanager
def reference_mode() -> Iterator[None]:
    """Run the definitions inside a ``with`` block, in this thread or task."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)
