"""Batch normalisation by the compiled kernels: a sweep for the sums, and one for the results."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.native.library import Library
from xpcnn.backend.cpu.native.primitives import (
    channels_last,
    in_order_of,
    kernels_for,
    parts_of,
    run_parts,
    sum_parts,
)
from xpcnn.backend.cpu.native.sizes import Array, pointer

__all__ = ["KERNELS"]

NEAR: Final = 5.0
"""How many deviations the centre of sums may be from the mean, for the variance to be accurate."""


def _matrix(x: Array, *others: Array | None) -> tuple[Library | None, Array]:
    """Return the kernels, if they serve these arrays, and x as (pixels, C)."""
    last = channels_last(x)
    kernels = kernels_for(x, *others) if x.size and last.flags.c_contiguous else None
    return kernels, last.reshape(-1, x.shape[1]) if kernels else x


def _statistics(kernels: Library, matrix: Array) -> tuple[Array, Array]:
    """Return the mean and the variance of each channel in float64.

    Deviations are measured from a centre, the mean of some pixels. Where that is far from the mean of all, a
    second sweep measures them from that.
    """
    pixels, c = matrix.shape
    at, row = pointer(matrix), c * matrix.itemsize
    centre = np.mean(matrix[:: -(-pixels // 64)], axis=0, dtype=np.float64).astype(matrix.dtype)
    centre[~np.isfinite(centre)] = 0  # from infinity, all deviations would be NaN
    for _ in range(2):

        def run(start: int, count: int, sums: int, centre: Array = centre) -> None:
            kernels.moments(at + start * row, pointer(centre), count, c, sums)

        offset, square = sum_parts(run, pixels, c, (2, c)) / pixels
        mean, variance = centre + offset, np.maximum(square - offset * offset, 0)
        if not np.any(offset * offset > NEAR**2 * variance):  # of NaN, no centre is a better one
            break
        centre = mean.astype(matrix.dtype)
    return mean, variance


def _normalise(
    kernels: Library, x: Array, matrix: Array, mean: Array, scale: Array, bias: Array | None, relu: bool
) -> Array:
    (pixels, c), y, row = matrix.shape, np.empty_like(x), matrix.shape[1] * x.itemsize
    given = (mean, scale, np.zeros(c) if bias is None else bias)
    numbers = [np.ascontiguousarray(array, x.dtype) for array in given]
    at_numbers = [pointer(array) for array in numbers]

    def run(start: int, count: int) -> None:
        at = start * row
        kernels.normalise(pointer(matrix) + at, *at_numbers, int(relu), count, c, pointer(y) + at)

    run_parts(run, parts_of(pixels, c))
    return y


def _norm_train(
    relu: bool,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> Any:
    kernels, matrix = _matrix(x, weight, bias, running_mean, running_var)
    if kernels is None:
        return NotImplemented
    count = len(matrix)
    mean, var = _statistics(kernels, matrix)
    new_mean = _blend(running_mean, mean, momentum)
    new_var = _blend(running_var, var * (count / (count - 1)), momentum)
    mean, inverse_std = mean.astype(x.dtype), (1 / np.sqrt(var + eps)).astype(x.dtype)
    scale = inverse_std if weight is None else inverse_std * weight
    return _normalise(kernels, x, matrix, mean, scale, bias, relu), mean, inverse_std, new_mean, new_var


def _blend(old: Array | None, new: Array, momentum: float) -> Array | None:
    return None if old is None else ((1 - momentum) * old + momentum * new).astype(old.dtype)


def _norm_inference(
    relu: bool,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
) -> Any:
    mean, var = running_mean, running_var
    kernels, matrix = _matrix(x, weight, bias, mean, var)
    if kernels is None:
        return NotImplemented
    inverse_std = 1 / np.sqrt(var + eps)
    scale = inverse_std if weight is None else inverse_std * weight
    return _normalise(kernels, x, matrix, mean, scale, bias, relu), mean, inverse_std


def _norm_gradients(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    inverse_std: Array,
    train: bool,
    y: Array | None = None,
) -> Any:
    """Return dx, dweight and dbias; with `y`, the output of a ReLU behind, only where that is positive."""
    kernels, matrix = _matrix(x, weight, mean, inverse_std, dy, y)
    if kernels is None:
        return NotImplemented
    (pixels, c), row = matrix.shape, matrix.shape[1] * x.itemsize
    dy, dx, mean = in_order_of(x, dy), np.empty_like(x), np.ascontiguousarray(mean)
    y = None if y is None else in_order_of(x, y)
    arrays = [pointer(dy), pointer(matrix), None if y is None else pointer(y)]

    def at(start: int) -> list[int | None]:
        return [None if place is None else place + start * row for place in arrays]

    def sums(start: int, count: int, to: int) -> None:
        kernels.norm_sums(*at(start), pointer(mean), count, c, to)

    product, dbias = sum_parts(sums, pixels, c, (2, c))
    wide = inverse_std.astype(np.float64)
    dweight = product * wide
    scale = wide if weight is None else wide * weight
    numbers = [mean, scale]
    if train:  # the gradient flows through the mean and the variance as well
        numbers += [-wide * dweight / pixels, -dbias / pixels]
    numbers = [np.ascontiguousarray(array, x.dtype) for array in numbers]
    at_numbers = [*map(pointer, numbers), *(() if train else (None, None))]

    def combine(start: int, count: int) -> None:
        kernels.norm_gradient(*at(start), *at_numbers, count, c, pointer(dx) + start * row)

    run_parts(combine, parts_of(pixels, c))
    return dx, dweight.astype(x.dtype), dbias.astype(x.dtype)


KERNELS: Final[dict[str, Callable[..., Any]]] = {
    "batch_norm_train": functools.partial(_norm_train, False),
    "batch_norm_inference": functools.partial(_norm_inference, False),
    "batch_norm_gradients": _norm_gradients,
    "batch_norm_relu_train": functools.partial(_norm_train, True),
    "batch_norm_relu_inference": functools.partial(_norm_inference, True),
    "batch_norm_relu_gradients": _norm_gradients,
}
