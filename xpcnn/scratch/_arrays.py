"""What the book's names accept: any numbers, mixed dtypes, and labels in three forms."""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import Array, Backend, asarray, backend_of, dtype_name, is_array, native
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.op import check_backend, require_array


def default_float(backend: Backend) -> Any:
    """Return the floating dtype that the library makes arrays of by default."""
    return backend.xp.zeros(0, device=backend.device).dtype


def is_floating(x: Array) -> bool:
    """Return whether `x` has a real floating dtype."""
    return dtype_name(x.dtype).startswith(("float", "bfloat"))


def size_of(x: Array) -> int:
    """Return how many elements `x` has."""
    return math.prod(x.shape)


def cast_like(x: Array, reference: Array) -> Array:
    """Return `x`, an array of real numbers, in the dtype of `reference`."""
    x = require_array("xpcnn.scratch", "an argument", x)
    return backend_of(x).xp.astype(x, native(reference).dtype, copy=False)


def as_floating(x: Any) -> Array:
    """Return `x` as an array of a floating dtype: itself if it is one; numbers go to the current backend."""
    array = require_array("xpcnn.scratch", "the argument", x if is_array(x) else asarray(x))
    if is_floating(array):
        return array
    backend = backend_of(array)
    return backend.xp.astype(array, default_float(backend))


def promote(op: str, **arguments: Any) -> list[Array]:
    """Return arrays, and plain numbers beside them, in the one floating dtype that holds them all.

    The first must be an array, and the others be on its backend. Integers and plain numbers have no say
    in the dtype, as long as one array is floating.
    """
    first, x = next(iter(arguments.items()))
    backend = backend_of(require_array(op, first, x))
    given, dtypes = [], []
    for name, argument in arguments.items():
        array = require_array(op, name, argument if is_array(argument) else backend.asarray(argument))
        check_backend(op, first, backend, name, array)
        given.append(array)
        if is_array(argument) and is_floating(array):
            dtypes.append(array.dtype)
    dtype = backend.xp.result_type(*dtypes) if dtypes else default_float(backend)
    return [backend.xp.astype(array, dtype, copy=False) for array in given]


def samples(op: str, x: Any, t: Any) -> tuple[Array, Array]:
    """Return samples and their labels as arrays, of which there must be as many, and at least one."""
    x, t = require_array(op, "x", x), require_array(op, "t", t)
    if min(x.ndim, t.ndim) < 1 or not 0 < x.shape[0] == t.shape[0]:
        raise ShapeError(f"{op}: samples of shape {tuple(x.shape)} with labels of shape {tuple(t.shape)}")
    return x, t


def class_numbers(t: Array) -> Array:
    """Return labels (N,) of labels (N,) or (N, 1), or of one-hot rows (N, classes)."""
    xp = backend_of(t).xp
    if t.ndim == 1:
        return t
    if t.ndim != 2:
        raise ShapeError(f"labels must be (N,), (N, 1) or one-hot (N, classes), got shape {tuple(t.shape)}")
    return xp.reshape(t, (-1,)) if t.shape[1] == 1 else xp.argmax(as_floating(t), axis=1)


class Layer:
    """What the book's layers share; attributes are None before `forward` and `backward`."""

    x: Array | None = None
    _ctx: Any = None

    def _context(self) -> Any:
        """Return what `forward` kept for `backward`."""
        if self._ctx is None:
            name = type(self).__name__
            raise ArgumentError(f"{name}.backward: there is no forward pass to go back through")
        return self._ctx
