"""What the pieces of one convolution share: weights in the form an algorithm wants them, made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from xpcnn.backend import Array

__all__ = ["once", "shared_between_pieces"]


class _Made:
    """What has been made, by what was asked for; pieces may be computed by several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.arrays: dict[Any, tuple[Array, Array]] = {}


_made: ContextVar[_Made | None] = ContextVar("xpcnn_conv_pieces", default=None)


@contextmanager
def shared_between_pieces() -> Iterator[None]:
    """Let `once` keep what it makes until the end of the block."""
    token = _made.set(_Made())
    try:
        yield
    finally:
        _made.reset(token)


def once(transform: Callable[..., Array], weight: Array, *args: Any) -> Array:
    """Return ``transform(weight, *args)``, made once for all pieces of a convolution."""
    made = _made.get()
    if made is None:
        return transform(weight, *args)
    key = (transform, id(weight), args)
    with made.lock:
        if key not in made.arrays:
            # Holding the weight keeps its id from being given to another array.
            made.arrays[key] = weight, transform(weight, *args)
        return made.arrays[key][1]
