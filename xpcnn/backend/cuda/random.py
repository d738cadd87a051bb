"""Dropout by a kernel, in place of the primitive of `xpcnn.ops.dropout`."""

from __future__ import annotations

import math
from typing import Any, Final

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.cuda.arrays import c_strides, element_strides, empty_like, merge_axes, storage_of
from xpcnn.backend.cuda.launch import dividers, launch, record, sized
from xpcnn.backend.cuda.source import STORAGE, Family, expressions
from xpcnn.backend.random import Key

__all__ = ["FAMILY", "KERNELS"]

_AXES: Final = 4

FAMILY: Final = Family("random", expressions("drop", STORAGE.values(), ("unsigned", "long long")))


def drop(x: Array, p: float, key: Key) -> Any:
    """Return y and the mask; see the primitive.

    An element is kept where the 32-bit word drawn for it is at least p · 2³²: the share that is kept is exact
    to 2⁻³², and no number is rounded to the dtype of `x` before it is compared.
    """
    storage = storage_of(x)
    y, mask = empty_like(x), empty_like(x)
    order = sorted(range(x.ndim), key=lambda axis: -y.strides[axis])
    given = x.shape, c_strides(x.shape), element_strides(x)
    axes = merge_axes(*([each[axis] for axis in order] for each in given))
    if storage is None or not x.size or len(axes) > _AXES:
        return NotImplemented
    sizes, places, steps = zip(*[(1, 0, 0)] * (_AXES - len(axes)), *axes, strict=True)
    bound, scale = math.ceil(p * 2**32), 1 / (1 - p) if p < 1 else 0.0
    reading = record(*dividers(*sizes[1:]), *places, *steps)
    launch(FAMILY, *sized("drop", storage, x, None), x, y, mask, reading, bound, scale, key.seed64)
    return y, mask


KERNELS: Final = {"drop": drop}
