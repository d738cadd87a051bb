"""Batch normalisation over channels-last memory, in blocks of pixels.

A block is passed over as one flat array, beside per-channel numbers repeated to its length. Sums over pixels
add up some dozens of rows in the array's dtype, and all else in float64: more accurate than one long sum.

Subtracting the mean first costs a pass, and is needed only where it is large against the deviation: for the
other channels ``(x − mean) · scale = x · scale − mean · scale`` loses two or three bits to rounding at most.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from xpcnn.backend.host.activation import keep_where_positive, rectify
from xpcnn.backend.host.memory import (
    Array,
    blocks,
    channel_matrix,
    empty_like_channel_matrix,
    is_served,
)
from xpcnn.backend.host.shares import run_in_shares, sum_of_shares

__all__ = ["KERNELS"]

_BLOCK_BYTES: Final = 1 << 20

_ROW: Final = 1024
"""Elements that are added up side by side: about the shortest that NumPy adds at full speed."""

_RUN: Final = 32
"""Rows of those that are added up in the array's dtype; their sums are added up in float64."""

_NEAR: Final = 5.0
"""What the mean may be, in standard deviations, where nothing is subtracted."""

_LEAST: Final = 1 << 16
"""Elements below which the whole array stays in a cache, and blocks gain nothing."""

_SOME: Final = 64
"""Pixels that tell beforehand whether the mean is large."""


class _Grid(NamedTuple):
    """How a matrix (pixels, C) is cut."""

    channels: int
    group: int
    """Pixels that are added up side by side."""
    block: int
    """Pixels of a block, a multiple of `group`."""

    @classmethod
    def of(cls, matrix: Array) -> _Grid:
        pixels, channels = matrix.shape
        group = max(1, _ROW // channels)
        block = max(1, _BLOCK_BYTES // (matrix.itemsize * channels * group)) * group
        return cls(channels, group, min(block, -(-pixels // group) * group))

    @property
    def step(self) -> int:
        """Elements of a block."""
        return self.block * self.channels

    def blocks(self, share: slice) -> Iterator[slice]:
        """Yield the places of the blocks of a share of the flat matrix."""
        for part in blocks(share.stop - share.start, self.step):
            yield slice(share.start + part.start, share.start + part.stop)

    def repeated(self, values: Array, dtype: Any) -> Array:
        """Return a number for each channel as often as a block has pixels, in one row."""
        return np.repeat(values.astype(dtype)[None], self.block, axis=0).reshape(-1)


class _Sum:
    """The sum over pixels for each channel, in float64, of blocks that are given one after another."""

    def __init__(self, grid: _Grid) -> None:
        self._channels = grid.channels
        self._wide = np.zeros(grid.group * grid.channels)
        self._rest = np.zeros(grid.channels)

    def add(self, flat: Array) -> None:
        for total, part, rows in self._parts(flat.size):
            total += _sum_in_float64(np.add.reduce(flat[part].reshape(rows), axis=1))

    def add_product(self, flat: Array, other: Array) -> None:
        for total, part, rows in self._parts(flat.size):
            products = np.einsum("rij,rij->rj", flat[part].reshape(rows), other[part].reshape(rows))
            total += _sum_in_float64(products)

    def _parts(self, size: int) -> Iterator[tuple[Array, slice, tuple[int, int, int]]]:
        """Yield the sum that each part of a block belongs to, its place, and its shape: runs of rows."""
        start = 0
        for total, run in ((self._wide, _RUN), (self._wide, 1), (self._rest, 1)):
            runs = (size - start) // (run * total.size)
            if runs:
                stop = start + runs * run * total.size
                # Fewer rows than a run are one run.
                yield total, slice(start, stop), (runs, run, total.size) if run > 1 else (1, runs, total.size)
                start = stop

    def value(self) -> Array:
        total: Array = self._rest + np.add.reduce(self._wide.reshape(-1, self._channels), axis=0)
        return total


def _sum_in_float64(runs: Array) -> Array:
    """Return the sum of the sums (runs, columns)."""
    total: Array = np.add.reduce(runs, axis=0, dtype=np.float64)
    return total


class _Centred:
    """Blocks of x, minus a number for each channel if there is one."""

    def __init__(self, grid: _Grid, x: Array, centre: Array | None) -> None:
        self._flat = x
        self._centres = None if centre is None else grid.repeated(centre, x.dtype)

    def __getitem__(self, part: slice) -> Array:
        values = self._flat[part]
        return values if self._centres is None else values - self._centres[: values.size]


def batch_norm_by_batch(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
    relu: bool = False,
) -> Any:
    """Return y, mean, inverse_std and the new running statistics."""
    matrix = _matrix(x, weight, bias, running_mean, running_var)
    if matrix is None:
        return NotImplemented
    count = len(matrix)
    mean, var = _statistics(matrix)
    new_mean = _blend(running_mean, mean, momentum)
    new_var = _blend(running_var, var * (count / (count - 1)), momentum)
    mean, inverse_std = mean.astype(x.dtype), (1 / np.sqrt(var + eps)).astype(x.dtype)
    return _scaled(x, matrix, mean, inverse_std, weight, bias, relu), mean, inverse_std, new_mean, new_var


def batch_norm_by_running(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    relu: bool = False,
) -> Any:
    """Return y, mean, inverse_std."""
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
    """Return dx, dweight, dbias; with the output y of a ReLU behind, `dy` is its gradient."""
    matrix, dy_matrix = _matrix(x, weight, mean, inverse_std, dy), channel_matrix(dy)
    y_matrix = None if y is None else channel_matrix(y)
    if matrix is None or dy_matrix is None or (y is not None and y_matrix is None):
        return NotImplemented
    grid = _Grid.of(matrix)
    wide_mean, wide_inverse_std = mean.astype(np.float64), inverse_std.astype(np.float64)
    centre = _centre(mean, inverse_std)
    flat_dy, flat_x = dy_matrix.reshape(-1), _Centred(grid, matrix.reshape(-1), centre)
    dx, dx_matrix = empty_like_channel_matrix(x)
    flat_dx = dx_matrix.reshape(-1)
    if y_matrix is not None:
        # What the ReLU lets through is kept in the memory of dx.
        flat_given, flat_y, flat_dy = flat_dy, y_matrix.reshape(-1), flat_dx

    def sums(share: slice) -> Array:
        products, gradients = _Sum(grid), _Sum(grid)
        for part in grid.blocks(share):
            if y_matrix is not None:
                keep_where_positive(flat_given[part], flat_y[part], flat_dy[part])
            products.add_product(flat_x[part], flat_dy[part])
            gradients.add(flat_dy[part])
        return np.stack([products.value(), gradients.value()])

    product, dbias = sum_of_shares(sums, matrix.size, grid.step)
    dweight = product if centre is not None else product - wide_mean * dbias
    dweight *= wide_inverse_std

    scale = wide_inverse_std if weight is None else wide_inverse_std * weight
    scales = grid.repeated(scale, x.dtype)
    if not train:

        def scale_share(share: slice) -> None:
            for part in grid.blocks(share):
                np.multiply(flat_dy[part], scales[: flat_dx[part].size], out=flat_dx[part])

        run_in_shares(scale_share, matrix.size, grid.step)
        return dx, dweight.astype(x.dtype), dbias.astype(x.dtype)
    # dx = scale · (dy − dbias / count − (x − mean) · inverse_std · dweight / count)
    count = len(matrix)
    slope = -scale * wide_inverse_std * dweight / count
    offset = -scale * dbias / count
    if centre is None:
        offset -= slope * wide_mean
    slopes, offsets = grid.repeated(slope, x.dtype), grid.repeated(offset, x.dtype)

    def combine(share: slice) -> None:
        scratch = np.empty_like(slopes)
        for part in grid.blocks(share):
            result = flat_dx[part]
            size = result.size
            np.multiply(flat_dy[part], scales[:size], out=result)
            result += np.multiply(flat_x[part], slopes[:size], out=scratch[:size])
            result += offsets[:size]

    run_in_shares(combine, matrix.size, grid.step)
    return dx, dweight.astype(x.dtype), dbias.astype(x.dtype)


def _matrix(x: Array, *others: Array | None) -> Array | None:
    """Return x as (pixels, C), or None where it is not served."""
    if x.size < _LEAST or not is_served(x, *(other for other in others if other is not None)):
        return None
    return channel_matrix(x)


def _statistics(matrix: Array) -> tuple[Array, Array]:
    """Return the mean and the variance of each channel in float64, in one sweep as a rule.

    ``Σ x² / n − mean²`` cancels where the mean is large: deviations are measured from a centre then, the mean
    of some pixels. Where those misled, a second sweep measures from the first one's mean.
    """
    grid, count = _Grid.of(matrix), len(matrix)
    some = matrix[:: -(-count // _SOME)].astype(np.float64)
    guess = np.add.reduce(some) / len(some)
    centre = None if _is_near(guess, np.add.reduce(some * some) / len(some)) else guess.astype(matrix.dtype)
    for _ in range(2):
        flat = _Centred(grid, matrix.reshape(-1), centre)
        offset, square = sum_of_shares(_moments(grid, flat), matrix.size, grid.step) / count
        mean = offset if centre is None else centre + offset
        if _is_near(offset, square):
            break
        centre = mean.astype(matrix.dtype)
    return mean, np.maximum(square - offset * offset, 0)


def _moments(grid: _Grid, flat: _Centred) -> Callable[[slice], Array]:
    """Return what gives the sums of numbers and of squares, for each channel, of a share."""

    def moments(share: slice) -> Array:
        total, squares = _Sum(grid), _Sum(grid)
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
    grid = _Grid.of(matrix)
    scale = inverse_std if weight is None else inverse_std * weight
    centre = _centre(mean, inverse_std)
    offset = np.zeros(grid.channels) if bias is None else bias.astype(np.float64)
    if centre is None:
        offset -= mean * scale.astype(np.float64)
    flat_x = _Centred(grid, matrix.reshape(-1), centre)
    scales, offsets = grid.repeated(scale, x.dtype), grid.repeated(offset, x.dtype)
    y, y_matrix = empty_like_channel_matrix(x)
    flat_y = y_matrix.reshape(-1)

    def scale_and_shift(share: slice) -> None:
        for part in grid.blocks(share):
            result = flat_y[part]
            np.multiply(flat_x[part], scales[: result.size], out=result)
            result += offsets[: result.size]
            if relu:
                rectify(result, result)

    run_in_shares(scale_and_shift, matrix.size, grid.step)
    return y


def _centre(mean: Array, inverse_std: Array) -> Array | None:
    """Return the mean where it has to be subtracted first; None where all are near 0, for their deviation."""
    return None if np.all(np.abs(mean * inverse_std) <= _NEAR) else mean


def _blend(old: Array | None, new: Array, momentum: float) -> Array | None:
    return None if old is None else ((1 - momentum) * old + momentum * new).astype(old.dtype)


KERNELS: Final = {
    "batch_norm_by_batch": batch_norm_by_batch,
    "batch_norm_by_running": batch_norm_by_running,
    "batch_norm_gradients": batch_norm_gradients,
    "batch_norm_relu_by_batch": functools.partial(batch_norm_by_batch, relu=True),
    "batch_norm_relu_by_running": functools.partial(batch_norm_by_running, relu=True),
    "batch_norm_relu_gradients": batch_norm_gradients,
}
