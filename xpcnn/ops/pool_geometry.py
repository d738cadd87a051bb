"""All size arithmetic of pooling, with PyTorch's rules for sizes, padding and divisors."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from xpcnn.backend import Array
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.checks import cached, check_rank, flag, pair, require_possible

__all__ = ["PoolGeometry", "divisors", "taps"]


@dataclass(frozen=True)
class PoolGeometry:
    """The sizes of one pooling. `padding` is (height, width), the same on both sides."""

    input_shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool

    @classmethod
    def of(
        cls, op: str, x: Array, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool
    ) -> PoolGeometry:
        """Return the geometry of the user's arguments, or raise an error that names `op`."""
        check_rank(op, "x", x, 4, "(N, C, H, W)")
        return cls.of_shape(op, tuple(x.shape), kernel_size, stride, padding, ceil_mode)

    @classmethod
    def of_shape(
        cls,
        op: str,
        shape: tuple[int, int, int, int],
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: bool,
    ) -> PoolGeometry:
        """Return `of` images that need not be there yet."""
        ceil_mode = flag(f"{op}: ceil_mode", ceil_mode)
        return cached(_build, (op, shape, ceil_mode), kernel_size, stride, padding)

    @functools.cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, C, OH, OW)."""
        n, c, *sizes = self.input_shape
        oh, ow = (
            self._count(size, kernel, stride, padding)
            for size, kernel, stride, padding in zip(
                sizes, self.kernel, self.stride, self.padding, strict=True
            )
        )
        return n, c, oh, ow

    def _count(self, size: int, kernel: int, stride: int, padding: int) -> int:
        room = size + 2 * padding - kernel
        if not self.ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        # A last window that would start in the right-hand padding sees no input: it is left out.
        return count - 1 if (count - 1) * stride >= size + padding else count

    @property
    def windows(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(kernel, stride, padding)."""
        return self.kernel, self.stride, self.padding


@functools.lru_cache(maxsize=1024)
def _build(
    op: str, x_shape: tuple[int, int, int, int], ceil_mode: bool, kernel_size: Any, stride: Any, padding: Any
) -> PoolGeometry:
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair(op, "stride", stride, 1)
    paddings = pair(op, "padding", padding, 0)
    if any(2 * p > k for p, k in zip(paddings, kernel, strict=True)):
        raise ArgumentError(
            f"{op}: padding must be at most half the kernel, got padding {paddings} for kernel {kernel}"
        )
    geometry = PoolGeometry(x_shape, kernel, strides, paddings, ceil_mode)
    if min(geometry.output_shape[2:]) < 1:
        raise ShapeError(
            f"{op}: kernel {kernel[0]}x{kernel[1]} is larger than the padded input "
            f"{x_shape[2] + 2 * paddings[0]}x{x_shape[3] + 2 * paddings[1]} "
            f"(x shape {x_shape}, padding {paddings})"
        )
    padded = (size + 2 * p for size, p in zip(x_shape[2:], paddings, strict=True))
    require_possible(op, "the padded x", (*x_shape[:2], *padded))
    return geometry


Tap = tuple[tuple[slice, slice], tuple[slice, slice]]


@functools.lru_cache(maxsize=1024)
def taps(
    size: tuple[int, int],
    output_size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[Tap, ...]:
    """Return for each kernel tap the output pixels whose tap is inside the input, and the input it meets."""
    rows, columns = (
        [_reach(length, count, step, tap - pad) for tap in range(reach)]
        for length, count, reach, step, pad in zip(size, output_size, kernel, stride, padding, strict=True)
    )
    return tuple(((row[0], column[0]), (row[1], column[1])) for row in rows for column in columns)


def _reach(size: int, count: int, stride: int, offset: int) -> tuple[slice, slice]:
    first = max(0, -(offset // stride))
    stop = max(first, min(count, (size - 1 - offset) // stride + 1))
    begin = first * stride + offset
    end = begin + (stop - first - 1) * stride + 1 if stop > first else begin
    return slice(first, stop), slice(begin, end, stride)


def divisors(
    size: int, count: int, kernel: int, stride: int, padding: int, count_include_pad: bool
) -> list[int]:
    """Return, for each of `count` windows along an axis, how many positions its average counts."""
    counts = []
    for i in range(count):
        start = i * stride - padding
        stop = min(start + kernel, size + padding)
        if not count_include_pad:
            start, stop = max(start, 0), min(stop, size)
        counts.append(stop - start)
    return counts
