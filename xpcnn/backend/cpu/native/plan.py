"""How the passes of a convolution are run by the compiled kernels: which of them, and over which parts.

Parts depend on the sizes alone, and sums over parts are added in pairs: the bits do not depend on the number
of threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.native.library import Library, library
from xpcnn.backend.cpu.native.primitives import pool_sizes
from xpcnn.backend.cpu.native.sizes import Images, Part, Sizes, cuts, pointer, sum_in_pairs
from xpcnn.backend.threads import parallel_map

__all__ = ["MOST_TAPS", "Plan"]

Array = np.ndarray[Any, Any]

MOST_TAPS: Final = 1024

SET, BIAS, BIAS_RELU = 0, 2, 3
"""The epilogues, as the kernels number them."""

MOST_SUMS: Final = 16 << 20
"""Bytes of the partial sums of a weight's gradient."""

POOLED_BYTES: Final = 1 << 20
"""Bytes of y that are computed before their maxima are taken: they stay in a cache."""

# What Winograd's transforms cost beside the multiplications they save, counted in multiplications. The
# figures are rough on purpose: one rule for all processors.
TRANSFORM_COST: Final = 54  # for each pixel and channel
FILTER_COST: Final = 64  # for each transformed weight
WORTHWHILE: Final = 0.8  # of the direct product's cost


class Plan:
    """How the passes of one convolution are run; it holds what does not depend on the arrays."""

    def __init__(self, sizes: Sizes, dtype: str) -> None:
        kernels = library(dtype)
        assert kernels is not None
        self.kernels, self.sizes, self.dtype = kernels, sizes, np.dtype(dtype)
        self.whole = Part.of(sizes, slice(0, sizes.n), slice(0, sizes.oh))
        self.shape = ctypes.byref(self.whole.shape)
        self.m = _winograd_tile(sizes, kernels)
        self.by_images = list(self._parts(sizes.parts, 1))
        images = min(sizes.parts, max(1, sizes.n))
        self.by_rows = list(self._parts(images, -(-sizes.parts // images)))

    def _parts(self, images: int, rows: int) -> Iterator[Part]:
        for some_images in cuts(self.sizes.n, images):
            for some_rows in cuts(self.sizes.oh, rows):
                yield Part.of(self.sizes, some_images, some_rows)

    def _empty(self, *shape: int) -> Array:
        return np.empty(shape, self.dtype)

    # -- forward -------------------------------------------------------------------------

    def forward(self, x: Images, weight: Array, bias: Array | None, relu: bool, y: Array) -> None:
        """Write y (N, OH, OW, K)."""
        s, to = self.sizes, pointer(y)
        if self.m:
            transformed = self._winograd(self.m, self.shape, x, weight, False, bias, relu)
            if all(_each(lambda tiles: transformed(tiles, to), cuts(s.tiles(self.m), s.parts))):
                return
        direct = self._direct(x, weight, bias, relu)
        _each(lambda part: direct(part, to), self.by_rows)

    def forward_pooled(self, x: Images, weight: Array, bias: Array, relu: bool, pooling: Any) -> Array:
        """Return the maxima (N, PH, PW, K) of windows of y, some images after the other."""
        s = self.sizes
        pooled = self._empty(s.n, *pooling.output_shape[2:], s.k)
        size = s.oh * s.ow * s.k * self.dtype.itemsize
        transformed = self._winograd(self.m, self.shape, x, weight, False, bias, relu) if self.m else None
        direct = functools.cache(lambda: self._direct(x, weight, bias, relu))

        def run(images: slice) -> None:
            y = self._empty(images.stop - images.start, s.oh, s.ow, s.k)
            origin = pointer(y) - images.start * size  # where the first of all images would be
            each = s.tiles(self.m) // s.n if self.m else 0
            tiles = slice(images.start * each, images.stop * each)
            if transformed is None or not transformed(tiles, origin):
                direct()(Part.of(s, images, slice(0, s.oh)), origin)
            pool = pool_sizes(pooling, len(y), s.k)
            self.kernels.max_pool(ctypes.byref(pool), pointer(y), pointer(pooled[images]))

        _each(run, cuts(s.n, max(s.parts, s.n * size // POOLED_BYTES)))
        return pooled

    def _direct(
        self, x: Images, weight: Array, bias: Array | None, relu: bool
    ) -> Callable[[Part, int], None]:
        """Return what computes a part of y, given the address of all of y."""
        s, kernels, bias_at, mode = self.sizes, self.kernels, *_epilogue(bias, relu)
        packed = self._empty(self.forward_packed)
        kernels.pack_forward(self.shape, pointer(weight), pointer(packed))
        row = s.ow * s.k * self.dtype.itemsize

        def run(part: Part, y: int) -> None:
            scratch = self._empty(self.forward_scratch)
            at = y + (part.images.start * s.oh + part.rows.start) * row
            shape, source = ctypes.byref(part.shape), x.at(part.images.start)
            kernels.forward(shape, *source, pointer(packed), bias_at, mode, at, pointer(scratch))

        return run

    # -- the gradient of the input ---------------------------------------------------------

    def grad_input(self, dy: Images, weight: Array, dx: Array) -> None:
        """Write dx (N, H, W, C)."""
        s, kernels, turned = self.sizes, self.kernels, self.turned
        if turned and turned.m:
            transformed = turned._winograd(turned.m, self.shape, dy, weight, True)
            tiles = cuts(turned.sizes.tiles(turned.m), s.parts)
            if all(_each(lambda some: transformed(some, pointer(dx)), tiles)):
                return
        packed = self._empty(self.turned_packed)
        kernels.pack_turned(self.shape, pointer(weight), pointer(packed))

        def run(part: Part) -> None:
            scratch = self._empty(self.grad_input_scratch)
            at = pointer(dx) + part.images.start * dx.strides[0]
            shape, source = ctypes.byref(part.shape), dy.at(part.images.start)
            kernels.grad_input(shape, *source, pointer(packed), at, pointer(scratch))

        _each(run, self.by_images)

    @functools.cached_property
    def turned(self) -> Plan | None:
        """The plan of the gradient of the input as a convolution of dy, where that has stride 1."""
        s = self.sizes
        top, left = s.kh - 1 - s.top, s.kw - 1 - s.left
        if (s.sh, s.sw, s.dh, s.dw, s.groups) != (1, 1, 1, 1, 1) or top < 0 or left < 0:
            return None
        sizes = s._replace(c=s.k, k=s.c, h=s.oh, w=s.ow, oh=s.h, ow=s.w, top=top, left=left)
        return Plan(sizes, self.dtype.name)

    # -- the gradient of the weight -----------------------------------------------------------

    def grad_weight(self, x: Images, dy: Images) -> Array:
        """Return dweight (K, C / groups, kh, kw)."""
        s, kernels = self.sizes, self.kernels
        weight = self._empty(s.k, s.c // s.groups, s.kh, s.kw)
        if self.m:
            sums = self._winograd_sums(self.m, x, dy)
            if kernels.winograd[self.m].unpack(self.shape, pointer(sums), pointer(weight)):
                return weight
        size = self.grad_weight_size

        def run(part: Part) -> Array:
            sums, scratch = np.zeros(size, self.dtype), self._empty(self.grad_weight_scratch)
            shape, start = ctypes.byref(part.shape), part.images.start
            kernels.grad_weight(shape, *x.at(start), *dy.at(start), pointer(sums), pointer(scratch))
            return sums

        parts = list(self._parts(self._sums_at_once(size), 1))
        sums = sum_in_pairs(kernels, _each(run, parts))
        kernels.unpack(self.shape, pointer(sums), pointer(weight))
        return weight

    def _sums_at_once(self, size: int) -> int:
        """Return how many sums of that many numbers are made side by side: a power of two.

        Together they are no larger than the images and gradients that they are made of.
        """
        s = self.sizes
        summed = s.n * s.c * s.h * s.w + s.pixels * s.k
        most = min(s.parts, summed // size, MOST_SUMS // (size * self.dtype.itemsize))
        return 1 << (max(1, most).bit_length() - 1)

    # -- Winograd -------------------------------------------------------------------------------

    def _winograd(
        self,
        m: int,
        shape: Any,
        x: Images,
        weight: Array,
        turned: bool,
        bias: Array | None = None,
        relu: bool = False,
    ) -> Callable[[slice, int], int]:
        """Return what computes some tiles of y, given the address of all of y.

        That returns whether these are finite: else NaN may have spread, and they are to be done again.
        `shape` is that of the convolution whose weight is given.
        """
        kernels, bias_at, mode = self.kernels.winograd[m], *_epilogue(bias, relu)
        packed_size, size = self.winograd_sizes
        packed = self._empty(packed_size)
        kernels.pack(shape, pointer(weight), int(turned), pointer(packed))

        def run(tiles: slice, y: int) -> int:
            scratch, ends = self._empty(size), (tiles.start, tiles.stop)
            finite: int = kernels.forward(
                self.shape, *x.at(0), pointer(packed), bias_at, mode, y, *ends, pointer(scratch)
            )
            return finite

        return run

    def _winograd_sums(self, m: int, x: Images, dy: Images) -> Array:
        s, kernels = self.sizes, self.kernels.winograd[m]
        numbers, size = (m + 2) ** 2 * s.c * s.k, self.winograd_sizes[1]

        def run(tiles: slice) -> Array:
            sums, scratch = np.zeros(numbers, self.dtype), self._empty(size)
            ends = tiles.start, tiles.stop
            kernels.grad_weight(self.shape, *x.at(0), *dy.at(0), pointer(sums), *ends, pointer(scratch))
            return sums

        return sum_in_pairs(self.kernels, _each(run, cuts(s.tiles(m), self._sums_at_once(numbers))))

    # -- memory ------------------------------------------------------------------------------------

    @functools.cached_property
    def forward_packed(self) -> int:
        return int(self.kernels.packed_forward_size(self.shape))

    @functools.cached_property
    def turned_packed(self) -> int:
        return int(self.kernels.packed_turned_size(self.shape))

    @functools.cached_property
    def winograd_sizes(self) -> tuple[int, int]:
        """Numbers of the transformed weight, and of a part's scratch memory."""
        kernels = self.kernels.winograd[self.m or 2]
        return int(kernels.packed_size(self.sizes.k, self.sizes.c)), int(kernels.scratch(self.shape))

    @functools.cached_property
    def forward_scratch(self) -> int:
        return max(int(self.kernels.forward_scratch(ctypes.byref(part.shape))) for part in self.by_rows)

    @functools.cached_property
    def grad_input_scratch(self) -> int:
        return int(self.kernels.grad_input_scratch(self.shape))

    @functools.cached_property
    def grad_weight_size(self) -> int:
        return max(1, int(self.kernels.grad_weight_size(self.shape)))

    @functools.cached_property
    def grad_weight_scratch(self) -> int:
        return int(self.kernels.grad_weight_scratch(self.shape))  # no part needs more

    @functools.cached_property
    def workspace(self) -> int:
        """Bytes of scratch memory of the pass that needs the most, beside the weight in C order."""
        s, parts, sums = self.sizes, self.sizes.parts, self.grad_weight_size
        passes = [
            self.forward_packed + parts * self.forward_scratch,
            self.turned_packed + parts * self.grad_input_scratch,
            parts * self.grad_weight_scratch + self._sums_at_once(sums) * sums,
        ]
        for plan in filter(None, (self, self.turned)):
            if plan.m:
                numbers, (packed, scratch) = (plan.m + 2) ** 2 * s.c * s.k, plan.winograd_sizes
                passes.append(parts * scratch + max(packed, self._sums_at_once(numbers) * numbers))
        return (max(passes) + s.k * s.c // s.groups * s.kh * s.kw) * self.dtype.itemsize


def _epilogue(bias: Array | None, relu: bool) -> tuple[int | None, int]:
    """Return the address of a bias, and the number of what is done with it."""
    return (None, SET) if bias is None else (pointer(bias), BIAS_RELU if relu else BIAS)


def _each(run: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    return [run(parts[0])] if len(parts) == 1 else list(parallel_map(run, parts))


def _winograd_tile(s: Sizes, kernels: Library) -> int | None:
    """Return m of the transform F(m×m, 3×3) that pays, or None."""
    if (s.kh, s.kw, s.sh, s.sw, s.dh, s.dw, s.groups) != (3, 3, 1, 1, 1, 1, 1):
        return None
    if min(s.c, s.k) < kernels.lanes or s.c % kernels.lanes or s.k % kernels.lanes:
        return None
    transforms = s.pixels * (1 / s.c + 1 / s.k) * TRANSFORM_COST
    costs = {m: (m + 2) ** 2 * (s.tiles(m) + FILTER_COST) + transforms for m in (4, 2)}
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < WORTHWHILE * 9 * s.pixels else None
