"""What is asked of an array, whatever library it is of; the names and sizes of dtypes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from xpcnn.errors import BackendError, DtypeError

__all__ = [
    "DTYPES",
    "FLOATS",
    "Array",
    "LibraryArray",
    "Namespace",
    "array_dtype_name",
    "dtype_name",
    "is_floating",
    "itemsize",
]


class Array(Protocol):
    """What the arrays of NumPy, CuPy, PyTorch and the standard have in common, as far as it is used.

    Array libraries share no base class. Where an array has no axes, NumPy itself answers with a scalar, which
    has all of this but `__setitem__`.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def device(self) -> Any: ...
    @property
    def T(self) -> Array: ...
    def __getitem__(self, key: Any, /) -> Array: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __int__(self) -> int: ...
    def __float__(self) -> float: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __mod__(self, other: Any, /) -> Array: ...
    def __pow__(self, other: Any, /) -> Array: ...
    def __matmul__(self, other: Any, /) -> Array: ...
    def __and__(self, other: Any, /) -> Array: ...
    def __or__(self, other: Any, /) -> Array: ...
    def __xor__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __rtruediv__(self, other: Any, /) -> Array: ...
    def __eq__(self, other: object, /) -> Array: ...  # type: ignore[override]
    def __ne__(self, other: object, /) -> Array: ...  # type: ignore[override]
    def __lt__(self, other: Any, /) -> Array: ...
    def __le__(self, other: Any, /) -> Array: ...
    def __gt__(self, other: Any, /) -> Array: ...
    def __ge__(self, other: Any, /) -> Array: ...
    def __neg__(self) -> Array: ...


class Namespace(Protocol):
    """A library's functions, as the array API standard spells them: nearly all return an array."""

    fft: Any
    isdtype: Callable[..., bool]
    float32: Any
    int64: Any

    def __getattr__(self, name: str, /) -> Callable[..., Array]: ...


LibraryArray = Any
"""An array of one library that has no types of its own, as CuPy and PyTorch have none here."""

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
"""The names of real floating dtypes."""

DTYPES = frozenset(
    {"bool", *FLOATS, "complex64", "complex128"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


# Typed: dtypes of two libraries may hash alike, and must not be compared.
@functools.lru_cache(maxsize=None, typed=True)
def array_dtype_name(dtype: Any) -> str:
    """Return the array API's name of the dtype of an array; `dtype_name` also takes what a user gave."""
    if isinstance(dtype, str):
        return dtype
    if isinstance(dtype, (np.dtype, type)):
        return np.dtype(dtype).name
    return str(dtype).rsplit(".", 1)[-1]


def dtype_name(dtype: Any) -> str:
    """Return the array API's name of any library's dtype, e.g. ``"float32"``.

    Raises
    ------
    DtypeError
        For what is neither a dtype nor a name.
    """
    try:
        return array_dtype_name(dtype)
    except (TypeError, ValueError):  # a list, a number of thousands of digits
        raise DtypeError(f"expected a dtype or its name, got {type(dtype).__name__}") from None


@functools.lru_cache(maxsize=None, typed=True)
def is_floating(dtype: Any) -> bool:
    """Return whether a dtype, or its name, is real and floating; bfloat16, an extension everywhere, is."""
    return dtype_name(dtype) in FLOATS


def itemsize(dtype: Any) -> int:
    """Return the bytes of one element of `dtype`."""
    bits = re.search(r"(\d+)$", dtype_name(dtype))
    if bits is None:
        raise BackendError(f"dtype {dtype_name(dtype)!r} has no known size")
    return int(bits[1]) // 8
