"""The sizes of a convolution, parts of its work, and images in memory, as the compiled kernels take them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from xpcnn.backend.cpu.native.library import Library
from xpcnn.backend.threads import parallel_map

__all__ = [
    "Images",
    "Part",
    "Sizes",
    "cuts",
    "each",
    "in_c_order",
    "place_for",
    "pointer",
    "sum_in_pairs",
    "winograd_tile",
]

Array = np.ndarray[Any, Any]

PARTS: Final = 8
"""Parts of large work, whatever the number of threads."""

WORTH_A_PART: Final = 1 << 22
"""Multiplications of a part: some tenths of a millisecond of a core."""


class Sizes(NamedTuple):
    """The sizes of a convolution, in the order of `Shape` of convolution.hpp."""

    n: int
    c: int
    h: int
    w: int
    k: int
    kh: int
    kw: int
    oh: int
    ow: int
    sh: int
    sw: int
    top: int
    left: int
    dh: int
    dw: int
    groups: int

    @classmethod
    def of(cls, geometry: Any) -> Sizes:
        """Return the sizes of a `ConvGeometry`."""
        (n, c, h, w), (k, _, kh, kw) = geometry.input_shape, geometry.weight_shape
        (oh, ow), (top, _, left, _) = geometry.output_size, geometry.padding
        (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
        return cls(n, c, h, w, k, kh, kw, oh, ow, sh, sw, top, left, dh, dw, geometry.groups)

    @property
    def pixels(self) -> int:
        return self.n * self.oh * self.ow

    @property
    def parts(self) -> int:
        """In how many parts the work is done."""
        work = self.pixels * self.k * self.c // self.groups * self.kh * self.kw
        return min(PARTS, max(1, work // WORTH_A_PART))

    def tiles(self, m: int) -> int:
        """Output tiles of m×m pixels."""
        return self.n * -(-self.oh // m) * -(-self.ow // m)


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in Sizes._fields]


class _Layout(ctypes.Structure):
    """`Layout` of convolution.hpp."""

    _fields_ = [(name, ctypes.c_long) for name in "nchw"]


class Part(NamedTuple):
    """Some images and output rows, and the sizes of just these, as the kernels take them."""

    images: slice
    rows: slice
    shape: _Shape

    @classmethod
    def of(cls, sizes: Sizes, images: slice, rows: slice) -> Part:
        top = sizes.top - rows.start * sizes.sh
        cut = sizes._replace(n=images.stop - images.start, oh=rows.stop - rows.start, top=top)
        return cls(images, rows, _Shape(*cut))


def cuts(length: int, count: int) -> list[slice]:
    count = max(1, min(length, count))
    return [slice(i * length // count, (i + 1) * length // count) for i in range(count)]


def each(run: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    return [run(parts[0])] if len(parts) == 1 else list(parallel_map(run, parts))


class Images(NamedTuple):
    """Images (N, C, H, W) in any memory order, as the kernels take them."""

    array: Array
    address: int
    layout: _Layout

    @classmethod
    def of(cls, x: Array) -> Images:
        if not x.flags.aligned:  # of a field of records, say
            x = x.copy()
        return cls(x, pointer(x), _Layout(*(stride // x.itemsize for stride in x.strides)))

    def at(self, image: int) -> tuple[int, Any]:
        """Return where an image begins, and the layout."""
        return self.address + image * self.array.strides[0], ctypes.byref(self.layout)


def in_c_order(array: Array) -> Array:
    """Return an array in C order, whose numbers lie where a processor expects them."""
    return np.ascontiguousarray(array) if array.flags.aligned else array.copy()


def pointer(array: Any) -> int:
    """Return the address of an array's first element."""
    address: int = array.__array_interface__["data"][0]
    return address


def sum_in_pairs(kernels: Library, arrays: list[Array]) -> Array:
    """Return the sum of arrays, added as a binary tree in their order; they are used up."""
    while len(arrays) > 1:
        for a, b in zip(arrays[::2], arrays[1::2], strict=False):
            kernels.add(pointer(a), pointer(b), pointer(a), a.size)
        arrays = arrays[::2]
    return arrays[0]


def place_for(shape: tuple[int, int, int, int], dtype: Any, out: Array | None = None) -> tuple[Array, Array]:
    """Return images of `shape` (N, C, H, W) to be written, and their memory (N, H, W, C), in one piece.

    They are `out` where its memory is like that, and new otherwise.
    """
    if out is not None and out.shape == shape and out.dtype == dtype:
        memory = out.transpose(0, 2, 3, 1)
        if memory.flags.c_contiguous and memory.flags.writeable:
            return out, memory
    n, c, h, w = shape
    memory = np.empty((n, h, w, c), dtype)
    return memory.transpose(0, 3, 1, 2), memory


# What Winograd's transforms cost beside the multiplications they save, counted in multiplications. The
# figures are rough on purpose: one rule for all processors.
TRANSFORM_COST: Final = 54  # for each pixel and channel
FILTER_COST: Final = 64  # for each transformed weight
WORTHWHILE: Final = 0.8  # of the direct product's cost


def winograd_tile(s: Sizes, kernels: Library) -> int | None:
    """Return m of the transform F(m×m, 3×3) that pays, or None."""
    if (s.kh, s.kw, s.sh, s.sw, s.dh, s.dw, s.groups) != (3, 3, 1, 1, 1, 1, 1):
        return None
    if min(s.c, s.k) < kernels.lanes or s.c % kernels.lanes or s.k % kernels.lanes:
        return None
    transforms = s.pixels * (1 / s.c + 1 / s.k) * TRANSFORM_COST
    costs = {m: (m + 2) ** 2 * (s.tiles(m) + FILTER_COST) + transforms for m in (4, 2)}
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < WORTHWHILE * 9 * s.pixels else None
