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

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

__all__ = ["NARROW", "read_narrow"]


def _from_bf16(raw: bytes) -> np.ndarray[Any, Any]:
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def _from_e5m2(raw: bytes) -> np.ndarray[Any, Any]:
    return (np.frombuffer(raw, np.uint8).astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def _from_e4m3(raw: bytes) -> np.ndarray[Any, Any]:
    return _E4M3[np.frombuffer(raw, np.uint8)]


def _e4m3(code: int) -> float:
    sign, exponent, fraction = 1 - 2 * (code >> 7), code >> 3 & 15, code & 7
    if exponent == 15 and fraction == 7:
        return sign * float("nan")
    return sign * (fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10))


_E4M3 = np.array([_e4m3(code) for code in range(256)], np.float32)

NARROW = {"BF16": _from_bf16, "F8_E4M3": _from_e4m3, "F8_E5M2": _from_e5m2}
"""The types read here, by their names in a safetensors header."""


def read_narrow(path: str | PathLike[str], names: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return entries of a safetensors file as float32 arrays.

    Parameters
    ----------
    path : path-like
        A file whose header has been checked.
    names : mapping of str to str
        Each entry, and its type: one of `NARROW`.
    """
    arrays = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, kind in names.items():
            start, stop = header[name]["data_offsets"]
            file.seek(8 + length + start)
            arrays[name] = NARROW[kind](file.read(stop - start)).reshape(header[name]["shape"])
    return arrays
