"""CuPy's functions as the array API standard spells them, mended where array_api_compat leaves a gap.

CuPy 14 stores bfloat16, and computes with two arrays of it. What is below it lacks, or answers in float32.
Operators are beyond reach: bfloat16 times a Python float is float32, so ops widen first and round once.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array

__all__ = ["CupyNamespace"]


class CupyNamespace(ModuleType):
    """array_api_compat's namespace, some of whose functions are replaced by methods of this class.

    Attributes
    ----------
    bfloat16 : dtype
        There from CuPy 14 on, where the package ml_dtypes is.
    """

    def __init__(self) -> None:
        import array_api_compat.cupy as compat
        import cupy

        super().__init__(compat.__name__)
        vars(self).update(vars(compat))
        self._cupy, self._compat = cupy, compat
        self.clip = self._clip
        if int(cupy.__version__.partition(".")[0]) < 14:
            return
        try:
            import ml_dtypes
        except ImportError:
            return
        self.bfloat16 = np.dtype(ml_dtypes.bfloat16)
        self.maximum, self.minimum = self._keeping(compat.maximum), self._keeping(compat.minimum)
        self.where, self.matmul, self.isdtype = self._where, self._matmul, self._isdtype

    def _clip(self, x: Array, /, min: Any = None, max: Any = None) -> Array:
        """Bound `x`, in its dtype; NaN stays NaN. array_api_compat writes through a mask, which waits."""
        y = x.copy() if min is None and max is None else x
        y = y if min is None else self._cupy.maximum(y, min)
        y = y if max is None else self._cupy.minimum(y, max)
        return y.astype(x.dtype, copy=False)

    def _keeping(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Return an element-wise function that answers bfloat16 and a Python number in bfloat16."""

        def kept(x1: Any, x2: Any, /, **options: Any) -> Array:
            y = function(x1, x2, **options)
            return y.astype(self.bfloat16, copy=False) if self._are_bfloat16(x1, x2) else y

        return kept

    def _are_bfloat16(self, *arguments: Any) -> bool:
        """Return whether all that are arrays have this dtype; Python numbers have none."""
        return {x.dtype for x in arguments if hasattr(x, "dtype")} == {self.bfloat16}

    def _where(self, condition: Array, x1: Any, x2: Any, /) -> Array:
        """Choose between `x1` and `x2`; bfloat16 by its bits, because CuPy answers in float32."""
        if not self._are_bfloat16(x1, x2):
            return self._compat.where(condition, x1, x2)
        bits = (self._cupy.asarray(x, dtype=self.bfloat16).view(np.uint16) for x in (x1, x2))
        return self._compat.where(condition, *bits).view(self.bfloat16)

    def _matmul(self, x1: Array, x2: Array, /) -> Array:
        """Multiply matrices or stacks of them; stacks of bfloat16, which CuPy refuses, in float32."""
        if self._are_bfloat16(x1, x2) and max(x1.ndim, x2.ndim) > 2:
            return self._compat.matmul(*(x.astype(np.float32) for x in (x1, x2))).astype(self.bfloat16)
        return self._compat.matmul(x1, x2)

    def _isdtype(self, dtype: Any, kind: Any) -> bool:
        """Return whether `dtype` is of a kind; that of bfloat16 is "real floating"."""
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if dtype == self.bfloat16:
            kinds_of_it = ("real floating", "numeric")
            return any(k in kinds_of_it if isinstance(k, str) else k == dtype for k in kinds)
        return any(self._compat.isdtype(dtype, k) for k in kinds if isinstance(k, str) or k != self.bfloat16)
