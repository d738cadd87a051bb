"""Convolution by the compiled kernels: which of them, over which parts of the work, and in whose memory.

Parts depend on the sizes alone, and sums over parts are added in pairs: the bits do not depend on the number
of threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from xpcnn.backend.arrays import LibraryArray, dtype_name
from xpcnn.backend.cpu.native.library import library, why_absent
from xpcnn.backend.cpu.native.primitives import max_pool, pool_sizes
from xpcnn.backend.cpu.native.sizes import (
    Images,
    Part,
    Sizes,
    cuts,
    each,
    in_c_order,
    place_for,
    pointer,
    sum_in_pairs,
    winograd_tile,
)  # fmt: skip

__all__ = ["CompiledConvolution", "Plan", "plan_of"]

Array = np.ndarray[Any, Any]

MOST_TAPS: Final = 1024
MOST_PLANS: Final = 1024

SET, BIAS, BIAS_RELU = 0, 2, 3
"""The epilogues, as the kernels number them."""

MOST_SUMS: Final = 20 << 20
"""Bytes of the partial sums of a weight's gradient."""

POOLED_BYTES: Final = 1 << 20
"""Bytes of y that are computed before their maxima are taken: they stay in a cache."""


class Plan:
    """How the passes of one convolution are run; it holds what does not depend on the arrays."""

    def __init__(self, sizes: Sizes, dtype: str) -> None:
        kernels = library(dtype)
        assert kernels is not None
        self.kernels, self.sizes, self.dtype = kernels, sizes, np.dtype(dtype)
        self.whole = Part.of(sizes, slice(0, sizes.n), slice(0, sizes.oh))
        self.shape = ctypes.byref(self.whole.shape)
        self.m = winograd_tile(sizes, kernels)
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
            if all(each(lambda tiles: transformed(tiles, to), cuts(s.tiles(self.m), s.parts))):
                return
        direct = self._direct(x, weight, bias, relu)
        each(lambda part: direct(part, to), self.by_rows)

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

        each(run, cuts(s.n, max(s.parts, s.n * size // POOLED_BYTES)))
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
            if all(each(lambda some: transformed(some, pointer(dx)), tiles)):
                return
        packed = self._empty(self.turned_packed)
        kernels.pack_turned(self.shape, pointer(weight), pointer(packed))

        def run(part: Part) -> None:
            scratch = self._empty(self.grad_input_scratch)
            at = pointer(dx) + part.images.start * dx.strides[0]
            shape, source = ctypes.byref(part.shape), dy.at(part.images.start)
            kernels.grad_input(shape, *source, pointer(packed), at, pointer(scratch))

        each(run, self.by_images)

    @functools.cached_property
    def turned(self) -> Plan | None:
        """The plan of the gradient of the input as a convolution of dy, where that has stride 1."""
        s = self.sizes
        top, left = s.kh - 1 - s.top, s.kw - 1 - s.left
        if (s.sh, s.sw, s.dh, s.dw, s.groups) != (1, 1, 1, 1, 1) or top < 0 or left < 0:
            return None
        sizes = s._replace(c=s.k, k=s.c, h=s.oh, w=s.ow, oh=s.h, ow=s.w, top=top, left=left)
        return Plan(sizes, self.dtype.name)

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
        sums = sum_in_pairs(kernels, each(run, parts))
        kernels.unpack(self.shape, pointer(sums), pointer(weight))
        return weight

    def _sums_at_once(self, size: int) -> int:
        """Return how many sums of that many numbers are made side by side: a power of two.

        More than two are no larger together than the images and gradients that they are made of.
        """
        s = self.sizes
        summed = s.n * s.c * s.h * s.w + s.pixels * s.k
        most = min(s.parts, max(2, summed // size), MOST_SUMS // (size * self.dtype.itemsize))
        return 1 << (max(1, most).bit_length() - 1)

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
        packed = self._empty(self.winograd_packed)
        kernels.pack(shape, pointer(weight), int(turned), pointer(packed))

        def run(tiles: slice, y: int) -> int:
            ends = tiles.start, tiles.stop
            scratch = self._empty(kernels.scratch(self.shape, tiles.stop - tiles.start))
            finite: int = kernels.forward(
                self.shape, *x.at(0), pointer(packed), bias_at, mode, y, *ends, pointer(scratch)
            )
            return finite

        return run

    def _winograd_sums(self, m: int, x: Images, dy: Images) -> Array:
        s, kernels = self.sizes, self.kernels.winograd[m]
        numbers = (m + 2) ** 2 * s.c * s.k

        def run(tiles: slice) -> Array:
            sums, ends = np.zeros(numbers, self.dtype), (tiles.start, tiles.stop)
            scratch = self._empty(kernels.scratch(self.shape, tiles.stop - tiles.start))
            kernels.grad_weight(self.shape, *x.at(0), *dy.at(0), pointer(sums), *ends, pointer(scratch))
            return sums

        return sum_in_pairs(self.kernels, each(run, cuts(s.tiles(m), self._sums_at_once(numbers))))

    @functools.cached_property
    def forward_packed(self) -> int:
        return int(self.kernels.packed_forward_size(self.shape))

    @functools.cached_property
    def turned_packed(self) -> int:
        return int(self.kernels.packed_turned_size(self.shape))

    @functools.cached_property
    def winograd_packed(self) -> int:
        return int(self.kernels.winograd[self.m or 2].packed_size(self.sizes.k, self.sizes.c))

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
                scratch, tiles = plan.kernels.winograd[plan.m].scratch, plan.sizes.tiles(plan.m)
                numbers = (plan.m + 2) ** 2 * s.c * s.k
                sums = self._sums_at_once(numbers)
                passes += [
                    plan.winograd_packed + parts * scratch(plan.shape, -(-tiles // parts)),
                    sums * (numbers + scratch(plan.shape, -(-tiles // sums))),
                ]
        return (max(passes) + s.k * s.c // s.groups * s.kh * s.kw) * self.dtype.itemsize


def _epilogue(bias: Array | None, relu: bool) -> tuple[int | None, int]:
    """Return the address of a bias, and the number of what is done with it."""
    return (None, SET) if bias is None else (pointer(bias), BIAS_RELU if relu else BIAS)


_plans: dict[Any, Plan] = {}


def plan_of(geometry: Any, dtype: str) -> Plan:
    """Return the plan for a `ConvGeometry`; made once, and kept."""
    key = geometry.key, dtype
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = Plan(Sizes.of(geometry), dtype)
    return plan


class CompiledConvolution:
    """The compiled kernels on NumPy's arrays: direct products in registers, or Winograd's where that pays."""

    fuses_epilogue = accepts_out = True

    def unsupported(self, geometry: Any, dtype: Any) -> str | None:
        reason, name = why_absent(), dtype_name(dtype)
        if reason:
            return f"needs the compiled kernels, which are {reason}; use 'im2col' without them"
        if library(name) is None:
            return f"computes in float32 or float64, not in {name}"
        kh, kw = geometry.kernel
        if kh * kw > MOST_TAPS:
            return f"takes kernels of at most {MOST_TAPS} weights, got {kh}x{kw}"
        return None

    def workspace_bytes(self, geometry: Any, dtype: Any) -> int:
        return plan_of(geometry, dtype_name(dtype)).workspace

    def forward(
        self,
        x: LibraryArray,
        weight: LibraryArray,
        geometry: Any,
        out: LibraryArray | None = None,
        limit: int = 0,
    ) -> LibraryArray:
        y, memory = place_for(geometry.output_shape, x.dtype, out)
        plan = plan_of(geometry, x.dtype.name)
        plan.forward(Images.of(x), in_c_order(weight), None, False, memory)
        return y

    def forward_epilogue(
        self, x: LibraryArray, weight: LibraryArray, geometry: Any, epilogue: Any
    ) -> LibraryArray:
        plan, pooling = plan_of(geometry, x.dtype.name), epilogue.pooling
        given = Images.of(x), in_c_order(weight), in_c_order(epilogue.bias), epilogue.relu
        if pooling is not None and plan.sizes.n >= plan.sizes.parts:
            return plan.forward_pooled(*given, pooling).transpose(0, 3, 1, 2)
        y, memory = place_for(geometry.output_shape, x.dtype)
        plan.forward(*given, memory)
        # Of few images, several threads compute rows, and the maxima are taken afterwards.
        return y if pooling is None else max_pool(y, pooling)

    def grad_input(
        self,
        dy: LibraryArray,
        weight: LibraryArray,
        geometry: Any,
        out: LibraryArray | None = None,
        limit: int = 0,
    ) -> LibraryArray:
        dx, memory = place_for(geometry.input_shape, dy.dtype, out)
        plan = plan_of(geometry, dy.dtype.name)
        plan.grad_input(Images.of(dy), in_c_order(weight), memory)
        return dx

    def grad_weight(self, x: LibraryArray, dy: LibraryArray, geometry: Any, limit: int = 0) -> LibraryArray:
        return plan_of(geometry, x.dtype.name).grad_weight(Images.of(x), Images.of(dy))
