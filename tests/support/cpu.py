"""Memory layouts, and the comparison of a kernel with the portable function that it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def draw(*shape: int, dtype: str = "float64", seed: int = 0) -> Array:
    """Normal numbers, a function of the shape and the seed alone."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def readonly(x: Array) -> Array:
    x.flags.writeable = False
    return x


def channels_last(x: Array) -> Array:
    """The same values (N, C, ...) over memory (N, ..., C) that refuses to be written to."""
    return np.moveaxis(readonly(np.array(np.moveaxis(x, 1, -1), order="C")), -1, 1)


def is_channels_last(x: Array) -> bool:
    return np.moveaxis(x, 1, -1).flags.c_contiguous


def same_bits(got: Array, expected: Array) -> bool:
    """Whether two arrays agree in shape, dtype and values, NaN where NaN is."""
    return (
        got.shape == expected.shape
        and got.dtype == expected.dtype
        and np.array_equal(got, expected, equal_nan=True)
    )


def everywhere_else(x: Array) -> Iterator[Array]:
    """The values (N, C, H, W) in memory that is not simply channels-last."""
    n, c, h, w = x.shape
    yield np.ascontiguousarray(x)
    memory = np.full((n, h, 2 * w, c + 1), np.nan, x.dtype)
    memory[:, :, ::2, 1:] = x.transpose(0, 2, 3, 1)
    yield memory[:, :, ::2, 1:].transpose(0, 3, 1, 2)
    yield np.ascontiguousarray(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]


@contextmanager
def unchanged(*arrays: Array) -> Iterator[None]:
    """Assert that a block leaves arrays alone."""
    before = [array.copy() for array in arrays]
    yield
    assert all(same_bits(array, old) for array, old in zip(arrays, before, strict=True))
