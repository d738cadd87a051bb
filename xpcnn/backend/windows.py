"""Where sliding windows lie: how many, in which memory, at which places."""

from __future__ import annotations

import functools

__all__ = ["window_count", "window_taps", "window_view"]


def window_count(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Return how many windows fit along an axis of `size`."""
    return (size - dilation * (kernel - 1) - 1) // stride + 1


@functools.lru_cache(maxsize=1024)
def window_view(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape and strides under which memory of (N, C, H, W) reads as its sliding windows."""
    n, c, h, w = shape
    s_n, s_c, s_h, s_w = strides
    oh = window_count(h, kernel[0], stride[0], dilation[0])
    ow = window_count(w, kernel[1], stride[1], dilation[1])
    steps = (s_n, s_c, s_h * stride[0], s_w * stride[1], s_h * dilation[0], s_w * dilation[1])
    return (n, c, oh, ow, *kernel), steps


def window_taps(size: int, count: int, kernel: int, stride: int, padding: int) -> list[tuple[slice, slice]]:
    """Return, for each tap of a pooling along an axis, the windows whose tap is inside, and what it meets."""
    taps = []
    for offset in range(-padding, kernel - padding):
        first = max(0, -(offset // stride))
        stop = max(first, min(count, (size - 1 - offset) // stride + 1))
        begin = first * stride + offset
        end = begin + (stop - first - 1) * stride + 1 if stop > first else begin
        taps.append((slice(first, stop), slice(begin, end, stride)))
    return taps
