"""Small steps that the problems share: waiting, placing images, a matrix product into memory that exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpcnn.backend import Backend

__all__ = ["gemm", "in_channels_last", "picked", "waited"]


def waited(backend: Backend, result: Any) -> Any:
    """Return a result when its device has finished it."""
    backend.synchronize()
    return result


def picked(calls: Callable[[], Mapping[str, Callable[[], Any]]], pass_name: str) -> Callable[[], Any]:
    """Return the call of one pass, of those that are made together."""
    return calls()[pass_name]


def in_channels_last(backend: Backend, images: np.ndarray) -> Any:
    """Return host images (N, C, H, W) on the device as a layer leaves them: channels-last in memory."""
    return backend.xp.permute_dims(backend.channels_last(backend.asarray(images)), (0, 3, 1, 2))


def gemm(backend: Backend, a: Any, b: Any) -> Callable[[], Any]:
    """Return a call that multiplies two matrices into memory that exists already, and waits."""
    xp = backend.xp
    product = xp.matmul(a, b)
    try:
        xp.matmul(a, b, out=product)
    except TypeError:  # a library that is the standard and nothing more
        return lambda: waited(backend, xp.matmul(a, b))
    return lambda: waited(backend, xp.matmul(a, b, out=product))
