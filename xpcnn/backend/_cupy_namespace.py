"""CuPy's functions as the array API standard spells them, mended where array_api_compat leaves a gap.

CuPy 14 stores bfloat16, and computes with two arrays of it. What is below it lacks, or answers in float32.
Operators are beyond reach: bfloat16 times a Python float is float32, so ops widen first and round once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import array_api_compat.cupy as compat
import cupy
import numpy as np

from xpcnn.backend.base import Array, Namespace

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

__all__ = ["BFLOAT16", "namespace"]

_HAS_BFLOAT16: Final = ml_dtypes is not None and int(cupy.__version__.partition(".")[0]) >= 14

BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16) if _HAS_BFLOAT16 else None
"""CuPy's bfloat16; None where CuPy is older than 14, or the package that brings the dtype is missing."""


_OF_TWO: Final = ("add", "subtract", "multiply", "divide", "pow", "maximum", "minimum")


def namespace() -> Namespace:
    """Return array_api_compat's namespace with the functions of this file in it."""
    xp = ModuleType(compat.__name__, __doc__)
    vars(xp).update(vars(compat), clip=clip)
    if BFLOAT16 is not None:
        vars(xp).update({name: _keeping(getattr(compat, name)) for name in _OF_TWO})
        vars(xp).update(bfloat16=BFLOAT16, where=where, matmul=matmul, isdtype=isdtype, finfo=finfo)
    return xp


def _keeping(function: Callable[..., Array]) -> Callable[..., Array]:
    """Return an element-wise function that answers bfloat16 and a Python number in bfloat16."""

    @functools.wraps(function, assigned=("__doc__",), updated=())
    def kept(x1: Any, x2: Any, /, **options: Any) -> Array:
        y = function(x1, x2, **options)
        return y.astype(BFLOAT16, copy=False) if _dtypes(x1, x2) == {BFLOAT16} else y

    return kept


def _dtypes(*arguments: Any) -> set[Any]:
    """Return the dtypes of the arrays; Python numbers have none."""
    return {x.dtype for x in arguments if hasattr(x, "dtype")}


def clip(x: Array, /, min: Any = None, max: Any = None) -> Array:
    """Bound `x`, in its dtype; NaN stays NaN. array_api_compat writes through a mask, which waits."""
    y = x.copy() if min is None and max is None else x
    y = y if min is None else cupy.maximum(y, min)
    y = y if max is None else cupy.minimum(y, max)
    return y.astype(x.dtype, copy=False)


def where(condition: Array, x1: Any, x2: Any, /) -> Array:
    """Choose between `x1` and `x2`; bfloat16 by its bits, because CuPy answers in float32."""
    if _dtypes(x1, x2) != {BFLOAT16}:
        return compat.where(condition, x1, x2)
    bits = (cupy.asarray(x, dtype=BFLOAT16).view(np.uint16) for x in (x1, x2))
    return compat.where(condition, *bits).view(BFLOAT16)


def matmul(x1: Array, x2: Array, /) -> Array:
    """Multiply matrices or stacks of them; stacks of bfloat16, which CuPy refuses, in float32."""
    if x1.dtype == x2.dtype == BFLOAT16 and max(x1.ndim, x2.ndim) > 2:
        return compat.matmul(x1.astype(np.float32), x2.astype(np.float32)).astype(BFLOAT16)
    return compat.matmul(x1, x2)


def isdtype(dtype: Any, kind: Any) -> bool:
    """Return whether `dtype` is of a kind; that of bfloat16 is "real floating"."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if dtype == BFLOAT16:
        return any(k in ("real floating", "numeric") if isinstance(k, str) else k == BFLOAT16 for k in kinds)
    return any(compat.isdtype(dtype, k) for k in kinds if isinstance(k, str) or k != BFLOAT16)


def finfo(dtype: Any, /) -> Any:
    """Return the limits of a dtype, or of an array's."""
    dtype = dtype.dtype if isinstance(dtype, cupy.ndarray) else dtype
    return ml_dtypes.finfo(dtype) if dtype == BFLOAT16 else compat.finfo(dtype)
