"""NumPy's arrays as pickles describe them: the few names they use, and what these make here.

Nothing is looked up: a name is a pair of texts, and what belongs to it is defined in this file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

__all__ = ["CALLS", "NOT_CALLED", "Cell", "Dtype", "Name", "RefusedError", "describe", "exact"]

_LONGEST_AXIS = 1 << 48
_MOST_AXES = 32


class RefusedError(Exception):
    """Something a pickle may say, but not here."""


class Name(NamedTuple):
    """What a pickle calls by ``module.name``. It stays a name."""

    module: str
    name: str


def describe(value: Any) -> str:
    """Return what a value is, never what it holds: a small file can hold what takes forever to print."""
    return ".".join(value)[:100] if type(value) is Name else f"a {type(value).__name__.lower()}"


def exact(kind: type, value: Any) -> Any:
    """Return `value`, which must be of this type and no other."""
    if type(value) is not kind:
        raise ValueError(f"expected a {kind.__name__.lower()}, got {describe(value)}")
    return value


class Dtype:
    """A dtype in the making: its code, and the byte order that comes later."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not re.fullmatch(r"[iu][1248]|f[248]|b1", exact(str, code)):
            raise RefusedError(f"holds an array of dtype {code[:20]!r}, which is not of real numbers")
        self.code, self.order = code, "="

    def build(self, version: Any, order: Any, *rest: Any) -> Dtype:
        """Take the byte order of a state; whatever else one may say makes dtypes of another kind."""
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
            raise RefusedError("holds an array of a structured dtype")
        self.order = order
        return self

    def array(self, data: Any, shape: Any, order: Any) -> numpy.ndarray:
        """Return a new array in native byte order: of `shape`, as long as the bytes in `data` fill it."""
        content, sizes = _bytes(data), exact(tuple, shape)
        if len(sizes) > _MOST_AXES or not all(type(n) is int and 0 <= n < _LONGEST_AXIS for n in sizes):
            raise ValueError("the shape of an array is none")
        dtype = numpy.dtype(self.code)
        if math.prod(sizes) * dtype.itemsize != len(content):
            raise ValueError(f"an array of shape {sizes} and dtype {dtype} has {len(content)} bytes")
        swapped = dtype.newbyteorder(self.order)
        return numpy.frombuffer(content, swapped).astype(dtype).reshape(sizes, order=order)


class Cell:
    """An array in the making: pickles note it down before they fill it."""

    array: numpy.ndarray | None = None

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind != _NDARRAY:
            raise RefusedError(f"makes an array of the kind {describe(kind)}")

    def build(self, *state: Any) -> numpy.ndarray:
        """Fill in a state (…, shape, dtype, in Fortran's order, bytes)."""
        shape, dtype, in_fortran_order, data = state[-4:]
        self.array = exact(Dtype, dtype).array(data, shape, "F" if in_fortran_order in (True, 1) else "C")
        return self.array


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> numpy.ndarray:
    array: numpy.ndarray = exact(Dtype, dtype).array(data, shape, "F" if order == "F" else "C")
    return array.transpose(exact(tuple, axes)) if order == "K" and axes is not None else array


def _scalar(dtype: Any, data: Any) -> Any:
    return exact(Dtype, dtype).array(data, (), "C")[()]


def _bytes(data: Any = b"", *_: Any) -> bytes:
    """Return bytes of bytes, or of the text that old protocols and Python 2 write in their place."""
    if type(data) is str:
        return data.encode("latin-1")
    return bytes(data) if type(data) is bytearray else exact(bytes, data)


_NDARRAY = Name("numpy", "ndarray")

NOT_CALLED = {_NDARRAY}
"""Names that may stand in a pickle as an argument alone."""

CALLS: dict[Name, Callable[..., Any]] = {Name("numpy", "dtype"): Dtype, Name("_codecs", "encode"): _bytes}
"""Names that may be called, with what is called in their place."""

for _builtins in ("__builtin__", "builtins"):  # in protocols up to 2, and later
    CALLS[Name(_builtins, "bytes")] = CALLS[Name(_builtins, "bytearray")] = _bytes
for _core in ("numpy.core", "numpy._core"):  # of NumPy 1 and 2
    CALLS[Name(f"{_core}.multiarray", "_reconstruct")] = Cell
    CALLS[Name(f"{_core}.multiarray", "scalar")] = _scalar
    CALLS[Name(f"{_core}.numeric", "_frombuffer")] = _from_buffer
