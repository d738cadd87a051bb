"""Batch normalisation over channels-last memory, in blocks of pixels that stay in a cache.

A row of a block is so many pixels that ufuncs meet long operands, beside the channels' numbers repeated as
often. Sums over a block are in the array's dtype, and all else in float64: more accurate than one long sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.layout import Array
from xpcnn.backend.threads import map_blocks

__all__ = ["KERNELS"]

_NEAR: Final = 5.0
"""How many deviations the centre of sums may be from the mean, for the variance to be accurate."""

_LEAST: Final = 1 << 16
"""Elements below which the whole array stays in a cache, and blocks gain nothing."""

_SOME: Final = 64
"""Pixels whose mean is the first centre."""

_ROW: Final = 1024
_BLOCK: Final = 1 << 17
"""Elements of a row, about the shortest that NumPy passes over at full speed, and of a block."""


def batch_norm_train(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> Any:
    """Return y, mean, inverse_std and the new running statistics."""
    rows = _rows(x, weight, bias, running_mean, running_var)
    if rows is None:
        return NotImplemented
    mean, var = _statistics(rows, x.shape[1])
    count = x.size // x.shape[1]
    new_mean = _blend(running_mean, mean, momentum)
    new_var = _blend(running_var, var * (count / (count - 1)), momentum)
    mean, inverse_std = mean.astype(x.dtype), (1 / np.sqrt(var + eps)).astype(x.dtype)
    return _scaled(x, rows, mean, inverse_std, weight, bias), mean, inverse_std, new_mean, new_var


def batch_norm_inference(
    x: Array, weight: Array | None, bias: Array | None, running_mean: Array, running_var: Array, eps: float
) -> Any:
    """Return y, mean and inverse_std."""
    rows = _rows(x, weight, bias, running_mean, running_var)
    if rows is None:
        return NotImplemented
    inverse_std = 1 / np.sqrt(running_var + eps)
    return _scaled(x, rows, running_mean, inverse_std, weight, bias), running_mean, inverse_std


def batch_norm_gradients(
    dy: Array, x: Array, weight: Array | None, mean: Array, inverse_std: Array, train: bool
) -> Any:
    """Return dx, dweight and dbias."""
    rows, rows_of_dy = _rows(x, weight, mean, inverse_std, dy), np.moveaxis(dy, 1, -1)
    if rows is None or not rows_of_dy.flags.c_contiguous:
        return NotImplemented
    rows_of_dy, centre, channels = rows_of_dy.reshape(rows.shape), _repeated(mean, rows), x.shape[1]

    def sums(part: slice) -> list[Array]:
        gradient = rows_of_dy[part]
        return [np.einsum("ij,ij->j", rows[part] - centre, gradient), np.add.reduce(gradient, axis=0)]

    product, dbias = _sums(sums, rows, channels)
    wide = inverse_std.astype(np.float64)
    dweight, scale = product * wide, wide if weight is None else wide * weight
    # dx = scale · (dy − dbias / count − (x − mean) · inverse_std · dweight / count)
    share = -scale * channels / x.size
    scales, slopes, offsets = (_repeated(a, rows) for a in (scale, share * wide * dweight, share * dbias))
    dx, rows_of_dx = _empty_like(x, rows)

    def combine(part: slice) -> None:
        result = np.multiply(rows_of_dy[part], scales, out=rows_of_dx[part])
        if train:
            centred = rows[part] - centre
            result += np.multiply(centred, slopes, out=centred)
            result += offsets

    _over_blocks(combine, rows)
    return dx, dweight.astype(x.dtype), dbias.astype(x.dtype)


def _rows(x: Array, *others: Array | None) -> Array | None:
    """Return x as a matrix, some pixels with all channels a row, or None where it is not served."""
    dtypes, memory = {array.dtype for array in (x, *others) if array is not None}, np.moveaxis(x, 1, -1)
    if x.size < _LEAST or dtypes not in ({np.dtype("f4")}, {np.dtype("f8")}) or not memory.flags.c_contiguous:
        return None
    channels, pixels = x.shape[1], x.size // x.shape[1]
    group = max(size for size in range(1, max(1, _ROW // channels) + 1) if pixels % size == 0)
    return memory.reshape(-1, group * channels)


def _repeated(values: Array, rows: Array) -> Array:
    """Return a number for each channel as often as a row has pixels."""
    return np.tile(values.astype(rows.dtype), rows.shape[1] // values.size)


def _empty_like(x: Array, rows: Array) -> tuple[Array, Array]:
    """Return a new array like x, and its rows."""
    y = np.empty_like(x)
    return y, np.moveaxis(y, 1, -1).reshape(rows.shape)


def _over_blocks(function: Callable[[slice], Any], rows: Array) -> list[Any]:
    return map_blocks(function, len(rows), max(1, _BLOCK // rows.shape[1]), rows.size)


def _sums(columns: Callable[[slice], list[Array]], rows: Array, channels: int) -> Array:
    """Return sums over pixels in float64, one row for each of those over the columns of a block."""
    total = functools.reduce(np.add, (np.asarray(found, np.float64) for found in _over_blocks(columns, rows)))
    sums: Array = total.reshape(len(total), -1, channels).sum(1)
    return sums


def _statistics(rows: Array, channels: int) -> tuple[Array, Array]:
    """Return the mean and the variance of each channel in float64.

    Deviations are measured from a centre, the mean of some pixels. Where that is far from the mean of all, a
    second sweep measures them from that.
    """
    matrix = rows.reshape(-1, channels)
    mean: Any = np.mean(matrix[:: -(-len(matrix) // _SOME)], axis=0, dtype=np.float64)
    for _ in range(2):
        centre = mean.astype(rows.dtype)
        repeated = _repeated(centre, rows)

        def moments(part: slice, repeated: Array = repeated) -> list[Array]:
            values = rows[part] - repeated
            return [np.add.reduce(values, axis=0), np.einsum("ij,ij->j", values, values)]

        offset, square = _sums(moments, rows, channels) / len(matrix)
        mean, variance = centre + offset, np.maximum(square - offset * offset, 0)
        if not np.any(offset * offset > _NEAR**2 * variance):  # of NaN, no centre is a better one
            break
    return mean, variance


def _scaled(
    x: Array, rows: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None
) -> Array:
    """Return ``(x − mean) · inverse_std · weight + bias``."""
    scale = inverse_std if weight is None else inverse_std * weight
    centre, scales = _repeated(mean, rows), _repeated(scale, rows)
    offsets = None if bias is None else _repeated(bias, rows)
    y, rows_of_y = _empty_like(x, rows)

    def scale_and_shift(part: slice) -> None:
        result = np.subtract(rows[part], centre, out=rows_of_y[part])
        result *= scales
        if offsets is not None:
            result += offsets

    _over_blocks(scale_and_shift, rows)
    return y


def _blend(old: Array | None, new: Array, momentum: float) -> Array | None:
    return None if old is None else ((1 - momentum) * old + momentum * new).astype(old.dtype)


KERNELS: Final[dict[str, Callable[..., Any]]] = {
    function.__name__: function for function in (batch_norm_train, batch_norm_inference, batch_norm_gradients)
}
