"""Numbers of 16 and 8 bits that NumPy does not know, as weight files hold them: read as float32, exactly.

=========  ====  ========  ========  ====  ==========================================
name       sign  exponent  fraction  bias  special values
=========  ====  ========  ========  ====  ==========================================
BF16       1     8         7         127   as float32, of which it is the upper half
F8_E5M2    1     5         2         15    as float16, of which it is the upper half
F8_E4M3    1     4         3         7     no infinity; NaN where all other bits are 1
=========  ====  ========  ========  ====  ==========================================

References
----------
Micikevicius et al., "FP8 formats for deep learning", 2022.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["NARROW"]

Array = np.ndarray[Any, Any]


def _from_bf16(codes: Array) -> Array:
    return (codes.astype(np.uint32) << 16).view(np.float32)


def _from_e5m2(codes: Array) -> Array:
    return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def _e4m3(code: int) -> float:
    sign, exponent, fraction = 1 - 2 * (code >> 7), code >> 3 & 15, code & 7
    if exponent == 15 and fraction == 7:
        return sign * float("nan")
    return sign * (fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10))


_E4M3 = np.array([_e4m3(code) for code in range(256)], np.float32)

NARROW = {"BF16": ("<u2", _from_bf16), "F8_E4M3": ("u1", _E4M3.take), "F8_E5M2": ("u1", _from_e5m2)}
"""By their names in a safetensors header: the dtype of their codes, and what upcasts these."""
