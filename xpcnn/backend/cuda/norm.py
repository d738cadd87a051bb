"""Batch normalisation by kernels, in place of the primitives of `xpcnn.ops.norm`.

Each pass over the batch starts three or four kernels, whatever the number of channels, and reads `x` twice.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.cuda.arrays import contiguous, element_strides, empty, empty_like, merge_axes, storage_of
from xpcnn.backend.cuda.launch import launch, record
from xpcnn.backend.cuda.source import STORAGE, Family, expressions
from xpcnn.backend.current import backend_of

__all__ = ["FAMILY", "KERNELS"]

_KERNELS: Final = (
    *("moments", "merge_moments", "finish_moments", "fixed_moments"),
    *("normalise", "gradient_sums", "add_rows", "gradient_input"),
)

FAMILY: Final = Family("norm", tuple(e for kernel in _KERNELS for e in expressions(kernel, STORAGE.values())))

_FEW: Final = 64  # partial results that one thread merges; of more, groups are merged first
_GROUP: Final = 32
_MOST_ITEMS: Final = 1 << 19  # twice the threads that the largest devices hold
_MOST_SUMS: Final = 1 << 10  # chunks of a channel that are summed apart
_VALUES: Final = 16  # of a chunk, at least, where there are so many
_MOST: Final = 1 << 31  # places in a channel or an image are counted in 32 bits


class _Images(NamedTuple):
    """An array (N, C, ...) as images by channels by pixels, and its strides in elements as ``Strides``."""

    array: Array
    strides: np.ndarray


class _Plan(NamedTuple):
    """What all kernels of a pass share."""

    storage: str
    channels: int
    values: int
    """Of each channel."""
    pixels: int
    channels_adjacent: bool

    def chunking(self, chunks: int) -> np.ndarray:
        """Return the struct ``Shares``."""
        steps = divmod(chunks, self.pixels)
        return record(self.channels, self.pixels, self.values, chunks, *steps, int(self.channels_adjacent))

    @property
    def chunks(self) -> int:
        """Into how many chunks a channel is cut where each value has its own result."""
        return max(1, min(-(-self.values // 4), _MOST_ITEMS // self.channels))

    @property
    def chunks_of_sums(self) -> int:
        """Into how many chunks a channel is cut where each chunk has one."""
        return max(1, min(-(-self.values // _VALUES), _MOST_SUMS, _MOST_ITEMS // self.channels))

    def launch(self, kernel: str, count: int, *args: Any) -> None:
        """Start a kernel for arrays of this storage type."""
        launch(FAMILY, f"{kernel}<{self.storage}>", count, *args)

    def empty(self, like: Array, *shape: int) -> Array:
        """Return a new array in the dtype that is summed in."""
        wide = "float64" if self.storage == "double" else "float32"
        return empty(like, shape, backend_of(like).dtype(wide))


def batch_norm_train(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> Any:
    """Normalise by the batch's own statistics; see the primitive."""
    plan = _plan(x, weight, bias, running_mean, running_var)
    if plan is None:
        return NotImplemented
    source, channels, chunks = _images(x), plan.channels, plan.chunks_of_sums
    partial = plan.empty(x, chunks, 3, channels)
    plan.launch("moments", chunks * channels, *source, plan.chunking(chunks), partial)
    if chunks > _FEW:
        groups = -(-chunks // _GROUP)
        merged = plan.empty(x, groups, 3, channels)
        plan.launch("merge_moments", groups * channels, partial, chunks, groups, channels, merged)
        partial, chunks = merged, groups
    mean, inverse_std = plan.empty(x, channels), plan.empty(x, channels)
    running = contiguous(running_mean), contiguous(running_var)
    new = tuple(None if old is None else empty(x, (channels,)) for old in running)
    unbiased = plan.values / (plan.values - 1)
    given, constants = (*source, partial, chunks), (unbiased, float(momentum), float(eps))
    plan.launch("finish_moments", channels, *given, *constants, *running, mean, inverse_std, *new)
    return _normalise(plan, source, mean, inverse_std, weight, bias), mean, inverse_std, *new


def batch_norm_inference(
    x: Array, weight: Array | None, bias: Array | None, running_mean: Array, running_var: Array, eps: float
) -> Any:
    """Normalise by running statistics; see the primitive."""
    plan = _plan(x, weight, bias, running_mean, running_var)
    if plan is None:
        return NotImplemented
    mean, inverse_std = plan.empty(x, plan.channels), plan.empty(x, plan.channels)
    running = contiguous(running_mean), contiguous(running_var)
    plan.launch("fixed_moments", plan.channels, *running, float(eps), mean, inverse_std)
    return _normalise(plan, _images(x), mean, inverse_std, weight, bias), mean, inverse_std


def batch_norm_gradients(
    dy: Array, x: Array, weight: Array | None, mean: Array, inverse_std: Array, train: bool
) -> Any:
    """Return dx, dweight and dbias; see the primitive."""
    plan = _plan(x, dy, weight)
    if plan is None:
        return NotImplemented
    channels, chunks = plan.channels, plan.chunks_of_sums
    statistics = contiguous(mean), contiguous(inverse_std)
    inputs = (*_images(dy), *_images(x))
    partial = plan.empty(x, chunks, 2, channels)
    plan.launch("gradient_sums", chunks * channels, *inputs, plan.chunking(chunks), *statistics, partial)
    while chunks > 1:
        groups = -(-chunks // _GROUP) if chunks > _FEW else 1
        merged = plan.empty(x, groups, 2, channels)
        plan.launch("add_rows", groups * 2 * channels, partial, chunks, groups, 2 * channels, merged)
        partial, chunks = merged, groups
    sums = partial[0]
    dx = _fresh(dy)
    given = (*statistics, contiguous(weight), sums if train else None)
    count = plan.chunks * channels
    plan.launch("gradient_input", count, *inputs, *dx, plan.chunking(plan.chunks), *given)
    return dx.array, sums[1], sums[0]


def _normalise(
    plan: _Plan, source: _Images, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None
) -> Array:
    y = _fresh(source.array)
    given = (mean, inverse_std, contiguous(weight), contiguous(bias))
    count = plan.chunks * plan.channels
    plan.launch("normalise", count, *source, *y, plan.chunking(plan.chunks), *given)
    return y.array


def _plan(x: Array, *others: Array | None) -> _Plan | None:
    """Return the plan for arrays of one dtype; None where there is nothing to do or kernels cannot do it."""
    storage = storage_of(x, *others)
    channels, pixels = x.shape[1], math.prod(x.shape[2:])
    values = x.shape[0] * pixels
    if storage is None or not values * channels or max(channels, values) >= _MOST:
        return None
    steps = element_strides(x)
    # Neighbouring threads take what lies closer: the next channel or the next pixel.
    adjacent = pixels == 1 or abs(steps[1]) < min(abs(step) for step in steps[2:])
    return _Plan(storage, channels, values, pixels, adjacent)


def _images(x: Array) -> _Images:
    pixel = _pixel_stride(x)
    if pixel is None:
        dense = x.copy(order="K")
        return _images(x.copy() if _pixel_stride(dense) is None else dense)
    return _Images(x, record(*element_strides(x)[:2], pixel))


def _fresh(like: Array) -> _Images:
    """Return a new array like another, in its memory order where pixels have one stride there."""
    y = empty_like(like)
    return _images(empty(like, like.shape) if _pixel_stride(y) is None else y)


def _pixel_stride(x: Array) -> int | None:
    """Return what is between neighbouring pixels, in elements, if that is the same for all."""
    pixels = merge_axes(x.shape[2:], element_strides(x)[2:])
    if len(pixels) > 1:
        return None
    return pixels[0][1] if pixels else 0


KERNELS: Final = {
    function.__name__: function for function in (batch_norm_train, batch_norm_inference, batch_norm_gradients)
}
