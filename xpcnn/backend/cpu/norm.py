"""Batch normalisation over channels-last memory, in blocks of pixels.

A block is passed over as one flat array, beside per-channel numbers repeated to its length. Sums over pixels
add up some dozens of rows in the array's dtype, and all else in float64: more accurate than one long sum.

Subtracting the mean first costs a pass, and is needed only where it is large against the deviation: for the
other channels ``(x − mean) · scale = x · scale − mean · scale`` loses two or three bits to rounding at most.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.blocking import Blocking, CentredBlocks, Sum
from xpcnn.backend.cpu.parallel import (
    Array,
    channel_matrix,
    empty_like_channel_matrix,
    is_supported,
    parallel_for_slices,
    parallel_sum,
)

__all__ = ["KERNELS"]

_NEAR: Final = 5.0
"""What the mean may be, in standard deviations, where nothing is subtracted."""

_LEAST: Final = 1 << 16
"""Elements below which the whole array stays in a cache, and blocks gain nothing."""

_SOME: Final = 64
"""Pixels that tell beforehand whether the mean is large."""


def batch_norm_train(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
    *,
    relu: bool = False,
) -> Any:
    """Return y, with a ReLU behind it if wanted, mean, inverse_std and the new running statistics."""
    matrix = _matrix(x, weight, bias, running_mean, running_var)
    if matrix is None:
        return NotImplemented
    count = len(matrix)
    mean, var = _statistics(matrix)
    new_mean = _blend(running_mean, mean, momentum)
    new_var = _blend(running_var, var * (count / (count - 1)), momentum)
    mean, inverse_std = mean.astype(x.dtype), (1 / np.sqrt(var + eps)).astype(x.dtype)
    return _scaled(x, matrix, mean, inverse_std, weight, bias, relu), mean, inverse_std, new_mean, new_var


def batch_norm_inference(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    *,
    relu: bool = False,
) -> Any:
    """Return y, with a ReLU behind it if wanted, mean, inverse_std."""
    matrix = _matrix(x, weight, bias, running_mean, running_var)
    if matrix is None:
        return NotImplemented
    inverse_std = 1 / np.sqrt(running_var + eps)
    y = _scaled(x, matrix, running_mean, inverse_std, weight, bias, relu)
    return y, running_mean, inverse_std


def batch_norm_gradients(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    inverse_std: Array,
    train: bool,
    y: Array | None = None,
) -> Any:
    """Return dx, dweight, dbias; those where y is positive, if there is a ReLU behind that gave y."""
    matrix, dy_matrix = _matrix(x, weight, mean, inverse_std, dy), channel_matrix(dy)
    y_matrix = None if y is None else channel_matrix(y)
    if matrix is None or dy_matrix is None or (y is not None and y_matrix is None):
        return NotImplemented
    grid = Blocking.of(matrix)
    wide_mean, wide_inverse_std = mean.astype(np.float64), inverse_std.astype(np.float64)
    centre = _centre(mean, inverse_std)
    flat_dy, flat_x = dy_matrix.reshape(-1), CentredBlocks(grid, matrix.reshape(-1), centre)
    dx, dx_matrix = empty_like_channel_matrix(x)
    flat_dx = dx_matrix.reshape(-1)
    if y_matrix is not None:
        # What the ReLU lets through is kept in the memory of dx.
        flat_given, flat_y, flat_dy = flat_dy, y_matrix.reshape(-1), flat_dx

    def sums(share: slice) -> Array:
        products, gradients = Sum(grid), Sum(grid)
        for part in grid.blocks(share):
            if y_matrix is not None:
                _keep_where_positive(flat_given[part], flat_y[part], flat_dy[part])
            products.add_product(flat_x[part], flat_dy[part])
            gradients.add(flat_dy[part])
        return np.stack([products.value(), gradients.value()])

    product, dbias = parallel_sum(sums, matrix.size, grid.step)
    dweight = product if centre is not None else product - wide_mean * dbias
    dweight *= wide_inverse_std

    scale = wide_inverse_std if weight is None else wide_inverse_std * weight
    scales = grid.repeated(scale, x.dtype)
    slopes = offsets = scales
    if train:  # dx = scale · (dy − dbias / count − (x − mean) · inverse_std · dweight / count)
        count = len(matrix)
        slope = -scale * wide_inverse_std * dweight / count
        offset = -scale * dbias / count
        if centre is None:
            offset -= slope * wide_mean
        slopes, offsets = grid.repeated(slope, x.dtype), grid.repeated(offset, x.dtype)

    def combine(share: slice) -> None:
        scratch = np.empty_like(scales)
        for part in grid.blocks(share):
            result = flat_dx[part]
            size = result.size
            np.multiply(flat_dy[part], scales[:size], out=result)
            if train:
                result += np.multiply(flat_x[part], slopes[:size], out=scratch[:size])
                result += offsets[:size]

    parallel_for_slices(combine, matrix.size, grid.step)
    return dx, dweight.astype(x.dtype), dbias.astype(x.dtype)


def _matrix(x: Array, *others: Array | None) -> Array | None:
    """Return x as (pixels, C), or None where it is not served."""
    if x.size < _LEAST or not is_supported(x, *(other for other in others if other is not None)):
        return None
    return channel_matrix(x)


def _statistics(matrix: Array) -> tuple[Array, Array]:
    """Return the mean and the variance of each channel in float64, in one sweep as a rule.

    ``Σ x² / n − mean²`` cancels where the mean is large: deviations are measured from a centre then, the mean
    of some pixels. Where those misled, a second sweep measures from the first one's mean.
    """
    grid, count = Blocking.of(matrix), len(matrix)
    some = matrix[:: -(-count // _SOME)].astype(np.float64)
    guess = np.add.reduce(some) / len(some)
    centre = None if _is_near(guess, np.add.reduce(some * some) / len(some)) else guess.astype(matrix.dtype)
    for _ in range(2):
        flat = CentredBlocks(grid, matrix.reshape(-1), centre)
        offset, square = parallel_sum(_moments(grid, flat), matrix.size, grid.step) / count
        mean = offset if centre is None else centre + offset
        if _is_near(offset, square):
            break
        centre = mean.astype(matrix.dtype)
    return mean, np.maximum(square - offset * offset, 0)


def _moments(grid: Blocking, flat: CentredBlocks) -> Callable[[slice], Array]:
    """Return what gives the sums of numbers and of squares, for each channel, of a share."""

    def moments(share: slice) -> Array:
        total, squares = Sum(grid), Sum(grid)
        for part in grid.blocks(share):
            values = flat[part]
            total.add(values)
            squares.add_product(values, values)
        return np.stack([total.value(), squares.value()])

    return moments


def _is_near(mean: Array, square: Array) -> bool:
    """Whether means are small against deviations, ``square`` being the mean of the squares.

    True for NaN, where no centre is a better one.
    """
    return not np.any(mean * mean * (1 + _NEAR**2) > _NEAR**2 * square)


def _scaled(
    x: Array,
    matrix: Array,
    mean: Array,
    inverse_std: Array,
    weight: Array | None,
    bias: Array | None,
    relu: bool,
) -> Array:
    """Return ``(x − mean) · inverse_std · weight + bias``, or what a ReLU lets through of it."""
    grid = Blocking.of(matrix)
    scale = inverse_std if weight is None else inverse_std * weight
    centre = _centre(mean, inverse_std)
    offset = np.zeros(grid.channels) if bias is None else bias.astype(np.float64)
    if centre is None:
        offset -= mean * scale.astype(np.float64)
    flat_x = CentredBlocks(grid, matrix.reshape(-1), centre)
    scales, offsets = grid.repeated(scale, x.dtype), grid.repeated(offset, x.dtype)
    y, y_matrix = empty_like_channel_matrix(x)
    flat_y = y_matrix.reshape(-1)

    zeros = np.zeros(scales.size, x.dtype)

    def scale_and_shift(share: slice) -> None:
        for part in grid.blocks(share):
            result = flat_y[part]
            np.multiply(flat_x[part], scales[: result.size], out=result)
            result += offsets[: result.size]
            if relu:
                np.maximum(result, zeros[: result.size], out=result)  # thrice as fast as with the number 0

    parallel_for_slices(scale_and_shift, matrix.size, grid.step)
    return y


def _centre(mean: Array, inverse_std: Array) -> Array | None:
    """Return the mean where it has to be subtracted first; None where all are near 0, for their deviation."""
    return None if np.all(np.abs(mean * inverse_std) <= _NEAR) else mean


def _keep_where_positive(dy: Array, y: Array, kept: Array) -> None:
    """Write `dy` to `kept` where y is positive, else 0."""
    # numpy.where branches on every element; an integer product is exact and twenty times faster.
    bits = f"i{dy.itemsize}"
    np.multiply(dy.view(bits), y > 0, out=kept.view(bits))


def _blend(old: Array | None, new: Array, momentum: float) -> Array | None:
    return None if old is None else ((1 - momentum) * old + momentum * new).astype(old.dtype)


KERNELS: Final = {
    "batch_norm_train": batch_norm_train,
    "batch_norm_inference": batch_norm_inference,
    "batch_norm_gradients": batch_norm_gradients,
    "batch_norm_relu_train": functools.partial(batch_norm_train, relu=True),
    "batch_norm_relu_inference": functools.partial(batch_norm_inference, relu=True),
    "batch_norm_relu_gradients": batch_norm_gradients,
}
