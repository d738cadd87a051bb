"""What the pieces of one convolution share: weights in the form an algorithm wants them, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from xpcnn.backend import Array

__all__ = ["once", "shared_between_pieces"]

_made: ContextVar[dict[Any, tuple[Array, Array]] | None] = ContextVar("xpcnn_conv_pieces", default=None)


@contextmanager
def shared_between_pieces() -> Iterator[None]:
    """Let `once` keep what it makes until the end of the block."""
    token = _made.set({})
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
    if key not in made:
        made[key] = weight, transform(weight, *args)  # holding the weight keeps its id from being given anew
    return made[key][1]
