"""What convolutions on NumPy share: zeros around images, windows of them, and patches as a matrix."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from xpcnn.backend.host.blocking import Array

__all__ = ["KERNELS", "Padding", "framed", "last", "place_for", "steps", "unfold", "view"]

_SMALL: Final = 1 << 14
"""Numbers that are written twice in less time than a call of NumPy takes."""

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def last(x: Array) -> Array:
    """Return x (N, C, H, W) as (N, H, W, C)."""
    return x.transpose(0, 2, 3, 1)


def place_for(shape: tuple[int, int, int, int], dtype: Any, out: Array | None = None) -> tuple[Array, Array]:
    """Return images of `shape` (N, C, H, W) to be written, and their memory (N, H, W, C), in one piece.

    They are `out` where its memory is like that, and new otherwise.
    """
    if out is not None and out.shape == shape and out.dtype == dtype:
        memory = last(out)
        if memory.flags.c_contiguous and memory.flags.writeable:
            return out, memory
    n, c, h, w = shape
    memory = np.empty((n, h, w, c), dtype)
    return memory.transpose(0, 3, 1, 2), memory


def framed(x: Array, padding: Padding) -> Array:
    """Return x (N, H, W, C) with zeros around it (top, bottom, left, right), in one piece."""
    top, bottom, left, right = padding
    if not any(padding) and x.flags.c_contiguous:
        return x
    n, h, w, c = x.shape
    shape = (n, h + top + bottom, w + left + right, c)
    if x.size <= _SMALL:  # fewer calls
        frame = np.zeros(shape, x.dtype)
        frame[:, top : top + h, left : left + w] = x
        return frame
    frame = np.empty(shape, x.dtype)
    if top:
        frame[:, :top] = 0
    if bottom:
        frame[:, top + h :] = 0
    rows = frame[:, top : top + h]
    if left:
        rows[:, :, :left] = 0
    if right:
        rows[:, :, left + w :] = 0
    rows[:, :, left : left + w] = x
    return frame


def steps(x: Array) -> tuple[int, ...]:
    """Return the strides of a contiguous array by its shape: axes of length 1 may have any."""
    found = [x.itemsize]
    for size in reversed(x.shape[1:]):
        found.append(found[-1] * size)
    return tuple(reversed(found))


def view(memory: Array, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Array:
    """Return an array over the memory of a contiguous one, which need not be cut along its axes."""
    return np.ndarray(shape, memory.dtype, memory, offset, strides)


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, kh·kw·C): one strided copy."""
    images = framed(x.transpose(0, 2, 3, 1), padding)
    n, height, width, c = images.shape
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    oh, ow = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    s_c = images.itemsize
    s_w, s_h, s_n = s_c * c, s_c * c * width, s_c * c * width * height
    if c == 1:
        # A row of a patch would be a run of kw numbers; tap by tap, runs are rows of the output. The GEMM
        # takes the transpose as it is.
        taps = view(images, (kh, kw, n, oh, ow), (dh * s_h, dw * s_w, s_n, sh * s_h, sw * s_w))
        return taps.reshape(kh * kw, n * oh * ow).T
    patches = view(images, (n, oh, ow, kh, kw, c), (s_n, sh * s_h, sw * s_w, dh * s_h, dw * s_w, s_c))
    return patches.reshape(n * oh * ow, kh * kw * c)


KERNELS: Final = {"unfold": unfold}
