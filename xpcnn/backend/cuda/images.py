"""Bytes of images to numbers by a kernel, in place of the primitive of `xpcnn.nn.preprocess`."""

from __future__ import annotations

import functools
from typing import Any, Final

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.arrays import dtype_name
from xpcnn.backend.base import Backend
from xpcnn.backend.cuda.arrays import contiguous, empty
from xpcnn.backend.cuda.launch import dividers, launch, record, sized
from xpcnn.backend.cuda.source import STORAGE, Family, expressions
from xpcnn.backend.current import backend_of

__all__ = ["FAMILY", "KERNELS"]

FAMILY: Final = Family("images", expressions("scale_images", STORAGE.values(), ("unsigned", "long long")))


def scaled_images(x: Array, scales: tuple[float, ...], shifts: tuple[float, ...], dtype: Any) -> Any:
    """Return ``x · scale − shift``; see the primitive."""
    storage = STORAGE.get(dtype_name(dtype))
    if storage is None or dtype_name(x.dtype) != "uint8":
        return NotImplemented
    y = empty(x, x.shape, dtype)
    channels, height, width = x.shape[1:] if x.ndim == 4 else (1, 1, 1)
    of = [record(*dividers(size)) for size in (channels, height, width)]
    wide = "float64" if storage == "double" else "float32"
    constants = _constants(backend_of(x), scales, shifts, wide)
    launch(FAMILY, *sized("scale_images", storage, x, None), contiguous(x), y, *of, constants, len(scales))
    return y


@functools.lru_cache(maxsize=64)
def _constants(backend: Backend, scales: tuple[float, ...], shifts: tuple[float, ...], dtype: str) -> Array:
    """Return scales and shifts on the device; a model's are the same in every step."""
    return backend.asarray((scales, shifts), dtype)


KERNELS: Final = {"scaled_images": scaled_images}
