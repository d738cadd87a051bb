"""Maximum pooling over channels-last memory, in blocks of images.

Forward is separable: maxima over the rows of each window, then over the columns of those. Backward gathers
every stride-th pixel of a row, and puts it back, as one item of all its channels, which takes a third of what
a ufunc spends on a strided operand; its ufuncs pass over long runs of memory.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.parallel import BLOCK_BYTES, Array, blocks, is_supported, last, place_for
from xpcnn.backend.windows import window_taps

__all__ = ["KERNELS"]

Tap = tuple[slice, slice]
"""Along one axis, the windows that have a tap inside the image, and the pixels that it meets there."""

_MOST_BYTES: Final = 1 << 10
"""Bytes of a pixel's channels above which a ufunc is as fast on strided operands."""

_LEAST: Final = 1 << 18
"""Elements below which everything stays in a cache, and blocks gain nothing."""


def max_pool_windows(x: Array, geometry: Any) -> Any:
    """Return the maxima (N, C, OH, OW). Windows of four pixels gain nothing from being taken apart."""
    images = _images(x)
    if images is None or math.prod(geometry.kernel) <= 4:
        return NotImplemented
    n, _, w, c = images.shape
    oh, ow = geometry.output_shape[2:]
    rows, columns = map(_taps, geometry.axes)
    y, maxima = place_for((n, c, oh, ow), x.dtype)
    step = _images_of_a_block(images)
    by_rows = np.empty((step, oh, w, c), x.dtype)
    for part in blocks(n, step):
        row = by_rows[: part.stop - part.start]
        _fold(rows, images[part], row, axis=1)
        _fold(columns, row, maxima[part], axis=2)
    return y


def max_pool_scatter(dy: Array, x: Array, y: Array, geometry: Any) -> Any:
    """Return dx: each gradient goes to the first pixel of its window, row by row, that equals the maximum."""
    images, maxima = _images(x), last(y)
    if images is None or not is_supported(x, y, dy) or not maxima.flags.c_contiguous:
        return NotImplemented
    c = images.shape[3]
    if c * x.itemsize > _MOST_BYTES:
        return NotImplemented
    phases, overlap = _phases(geometry), geometry.windows_overlap
    dx, dx_images = place_for(x.shape, x.dtype)
    if any(k < s for k, s in zip(geometry.kernel, geometry.stride, strict=True)):
        dx_images.fill(0)  # some pixels are in no phase

    integer = np.dtype(f"i{x.itemsize}")
    gradients = np.ascontiguousarray(last(dy)).view(integer)
    step = _images_of_a_block(images)
    tapped = phases.memory(step, c, x.dtype, math.nan)  # what is outside the image equals nothing
    gathered = phases.memory(step, c, x.dtype, 0.0)
    shape = (step, *maxima.shape[1:])
    hits, free, factors = np.empty(shape, np.bool_), np.empty(shape, np.bool_), np.empty(shape, integer)
    gathering, scattering = phases.pixels(tapped, images), phases.pixels(gathered, dx_images)
    taps = [(tapped[tap], gathered[tap]) for tap in phases.taps]
    for part in blocks(len(images), step):
        count, maximum, gradient = part.stop - part.start, maxima[part], gradients[part]
        hit, left, factor = hits[:count], free[:count], factors[:count]
        for phase, pixels in gathering:
            np.copyto(phase[:count], pixels[part])
        left.fill(True)  # windows that have not met their maximum yet
        if overlap:
            gathered.fill(0)
        for values, into in taps:
            np.equal(values[:count], maximum, out=hit)
            hit &= left
            left ^= hit
            np.copyto(factor, hit)  # an integer product with 0 or 1 is exact, and needs no branches
            if overlap:
                factor *= gradient
                into[:count] += factor.view(x.dtype)
            else:
                np.multiply(gradient, factor, out=into[:count].view(integer))
        for phase, pixels in scattering:
            np.copyto(pixels[part], phase[:count])
    return dx


def _images(x: Array) -> Array | None:
    """Return x as (N, H, W, C) where it is served: with the channels of a pixel side by side."""
    images = last(x)
    return images if x.size >= _LEAST and is_supported(x) and images.strides[3] == x.itemsize else None


def _images_of_a_block(images: Array) -> int:
    image: int = images[0].size * images.itemsize
    return min(len(images), max(1, BLOCK_BYTES // image))


def _taps(axis: tuple[int, int, int, int, int]) -> list[Tap]:
    """Return the taps along an axis that meet the image at all."""
    return [tap for tap in window_taps(*axis) if tap[0].stop > tap[0].start]


def _fold(taps: list[Tap], values: Array, out: Array, axis: int) -> None:
    """Write the maxima along an axis of `values` to `out`."""
    before = (slice(None),) * axis
    everywhere = slice(0, out.shape[axis])
    whole = [tap for tap in taps if tap[0] == everywhere]
    if len(whole) >= 2:
        (_, first), (_, second) = start = whole[:2]
        np.maximum(values[(*before, first)], values[(*before, second)], out=out)
    else:
        start = []
        out.fill(-math.inf)
    for windows, met in (tap for tap in taps if tap not in start):
        part = out[(*before, windows)]
        np.maximum(part, values[(*before, met)], out=part)


class _Phases:
    """Images cut into ``stride`` × ``stride`` smaller ones, of the pixels that are a stride apart.

    Tap (r, s) of all windows is then a run of pixels in the phase (r mod stride, s mod stride).
    """

    def __init__(self, geometry: Any) -> None:
        kernel, stride = geometry.kernel, geometry.stride
        oh, ow = geometry.output_shape[2:]
        self._count = tuple(map(min, kernel, stride))
        self._size = tuple(
            max(count + (k - 1) // s, -(-(length + p) // s)) for length, count, k, s, p in geometry.axes
        )
        self.taps: list[tuple[Any, ...]] = [
            (r % stride[0], s % stride[1], slice(None), _run(r, stride[0], oh), _run(s, stride[1], ow))
            for r, s in itertools.product(range(kernel[0]), range(kernel[1]))
        ]
        self._inside = [
            [_taps((length, run, 1, step, p - phase)) for phase in range(count)]
            for (length, _, _, step, p), run, count in zip(
                geometry.axes, self._size, self._count, strict=True
            )
        ]
        self._reach_outside = any(
            run * step != length
            for (length, _, _, step, _), run in zip(geometry.axes, self._size, strict=True)
        )

    def memory(self, images: int, channels: int, dtype: Any, outside: float) -> Array:
        """Return memory for the phases of this many images, with a value for what is outside them."""
        memory = np.empty((*self._count, images, *self._size, channels), dtype)
        if self._reach_outside:
            memory.fill(outside)
        return memory

    def pixels(self, phases: Array, images: Array) -> list[tuple[Array, Array]]:
        """Return for each phase the pixels that are inside the images: there, and in the images."""
        items, whole = _pixels(phases), _pixels(images)
        return [
            (items[a, b, :, i, j], whole[:, row, column])
            for a, rows in enumerate(self._inside[0])
            for b, columns in enumerate(self._inside[1])
            for (i, row), (j, column) in itertools.product(rows, columns)
        ]


_phases = functools.lru_cache(maxsize=256)(_Phases)


def _run(tap: int, stride: int, count: int) -> slice:
    return slice(tap // stride, tap // stride + count)


def _pixels(images: Array) -> Array:
    """Return (..., C) as (...) items, each all channels of a pixel."""
    return images.view(np.dtype((np.void, images.shape[-1] * images.itemsize)))[..., 0]


KERNELS: Final = {"max_pool_windows": max_pool_windows, "max_pool_scatter": max_pool_scatter}
