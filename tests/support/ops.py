"""What the op tests share: drawn inputs, awkward memory layouts, and matching of error messages."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def draw(*shape: int, dtype: str = "float64", seed: int = 0) -> Array:
    """Normal numbers, a function of the shape and the seed alone."""
    generator = np.random.default_rng([seed, *shape])
    return generator.standard_normal(shape).astype(dtype)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """An int as a pair of itself."""
    return (value, value) if isinstance(value, int) else value


def mentions(*parts: str) -> str:
    """A regular expression for messages that hold all of these, in any order."""
    return r"(?s)\A" + "".join(f"(?=.*{re.escape(part)})" for part in parts)


def scratch(f: Callable[[], Any]) -> tuple[Any, int]:
    """(what f returned, the most memory NumPy and Python held meanwhile beyond what they held before)."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        result = f()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return result, peak - before


# Layouts: each takes NumPy values (N, C, H, W) and gives an array with values of that shape whose memory is
# not simply C-contiguous. Only "broadcast" changes the values.


def channels_last(make: Any, values: Array) -> Any:
    memory = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    return make.xp.permute_dims(make.array(memory), (0, 3, 1, 2))


def channels_first(make: Any, values: Array) -> Any:
    """Strides in the order (C, N, H, W)."""
    memory = np.ascontiguousarray(values.transpose(1, 0, 2, 3))
    return make.xp.permute_dims(make.array(memory), (1, 0, 2, 3))


def cropped(make: Any, values: Array) -> Any:
    """Part of larger channels-last images, whose rows are still vectors of channels."""
    _, _, h, w = values.shape
    larger = np.pad(values, [(0, 0), (0, 0), (1, 2), (2, 1)])
    return channels_last(make, larger)[:, :, 1 : h + 1, 2 : w + 2]


def sliced(make: Any, values: Array) -> Any:
    """Every second row and third column of a larger array, whose other entries are NaN."""
    n, c, h, w = values.shape
    memory = np.full((n, c + 1, 2 * h, 3 * w), np.nan, dtype=values.dtype)
    memory[:, 1:, ::2, ::3] = values
    return make.array(memory)[:, 1:, ::2, ::3]


def spread(make: Any, values: Array) -> Any:
    """Every eighth column of larger images: steps of whole vectors, but no vector of channels."""
    memory = np.full((*values.shape[:3], 8 * values.shape[3]), np.nan, dtype=values.dtype)
    memory[..., ::8] = values
    return make.array(memory)[..., ::8]


def unaligned(make: Any, values: Array) -> Any:
    """Channels-last, but no vector starts where vectors may."""
    n, c, h, w = values.shape
    flat = np.concatenate([[np.nan], values.transpose(0, 2, 3, 1).ravel()]).astype(values.dtype)
    return make.xp.permute_dims(make.xp.reshape(make.array(flat)[1:], (n, h, w, c)), (0, 3, 1, 2))


def flipped(make: Any, values: Array) -> Any:
    """Negative strides, where the library has them."""
    return make.xp.flip(make.array(np.ascontiguousarray(values[:, :, ::-1, ::-1])), axis=(2, 3))


def broadcast(make: Any, values: Array) -> Any:
    """The first item repeated with stride 0."""
    return make.xp.broadcast_to(make.array(values[:1]), values.shape)


LAYOUTS = {
    "channels-last": channels_last,
    "channels-first": channels_first,
    "sliced": sliced,
    "flipped": flipped,
    "broadcast": broadcast,
}
ALL_LAYOUTS = {**LAYOUTS, "cropped": cropped, "spread": spread, "unaligned": unaligned}
"""With those that CUDA's kernels, which move vectors of channels, take differently."""


def is_channels_last(array: Any) -> bool:
    """Whether an NCHW array is a view over contiguous NHWC memory; True where a library has no strides."""
    return not hasattr(array, "flags") or bool(array.transpose(0, 2, 3, 1).flags.c_contiguous)


def same_bits(got: Array, expected: Array) -> None:
    """Assert that two arrays agree in shape, dtype and values, NaN where NaN is."""
    np.testing.assert_array_equal(got, expected, strict=True)
