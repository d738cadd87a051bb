"""Independent answers, in float64 on the host, that every contestant is held against before it is timed.

Nothing here uses the ops: convolution is summed tap by tap over shifted slices, pooling looks at each tap in
turn. Of a large batch the results that belong to single images are compared on a few of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from xpcnn.ops import ConvGeometry

__all__ = ["TOLERANCE", "Expected", "convolution", "layer", "relative_error"]

TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "float64": 1e-10}
"""Errors, relative to the largest expected number, above which a result is wrong rather than rounded."""

_IMAGES = 3


class Expected(NamedTuple):
    """The answer.

    Attributes
    ----------
    values : ndarray
    images : tuple of int, or None
        For which images of the batch it is; None where it belongs to the whole batch.
    as_whole : bool
        Compared as one vector, by lengths, rather than number by number: where rounding lifts a number above
        a ReLU's 0, a few gradients change by much and the others by nothing.
    """

    values: np.ndarray
    images: tuple[int, ...] | None = None
    as_whole: bool = False


def relative_error(result: np.ndarray, expected: Expected) -> float:
    """Return the largest difference, relative to the largest expected number; infinite for another shape.

    Of an answer as a whole, the length of the difference relative to that of the answer.

    Examples
    --------
    >>> round(relative_error(np.array([1.0, 2.1]), Expected(np.array([1.0, 2.0]))), 3)
    0.05
    """
    seen = result if expected.images is None else result[list(expected.images)]
    if seen.shape != expected.values.shape or not np.isfinite(seen).all():
        return math.inf
    if expected.as_whole:
        return float(np.linalg.norm(seen - expected.values) / np.linalg.norm(expected.values))
    scale = np.abs(expected.values).max(initial=0) or 1
    return float(np.abs(seen - expected.values).max(initial=0) / scale)


def _some(images: int) -> tuple[int, ...]:
    return tuple(sorted({0, images // 2, images - 1})) if images > _IMAGES else tuple(range(images))


def convolution(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray], geometry: ConvGeometry, pass_name: str
) -> Expected:
    """Return the result of a pass over (x, weight, dy)."""
    x, weight, dy = arrays
    images = _some(geometry.n) if pass_name != "grad_weight" else tuple(range(geometry.n))
    x, dy = (np.asarray(array[list(images)], np.float64) for array in (x, dy))
    weight = np.asarray(weight, np.float64)
    top, bottom, left, right = geometry.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    groups, channels, outputs = geometry.groups, weight.shape[1], geometry.k // geometry.groups
    y, dpadded, dweight = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(weight)
    (oh, ow), (sh, sw), (dh, dw) = geometry.output_size, geometry.stride, geometry.dilation
    for r, s in product(range(geometry.kernel[0]), range(geometry.kernel[1])):
        rows = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh)
        columns = slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
        for group in range(groups):
            ins = slice(group * channels, (group + 1) * channels)
            outs = slice(group * outputs, (group + 1) * outputs)
            tap, seen = weight[outs, :, r, s], padded[:, ins, rows, columns]
            if pass_name == "forward":
                y[:, outs] += _mixed(tap, seen)
            elif pass_name == "grad_input":
                dpadded[:, ins, rows, columns] += _mixed(tap.T, dy[:, outs])
            else:
                dweight[outs, :, r, s] = np.tensordot(dy[:, outs], seen, axes=((0, 2, 3), (0, 2, 3)))
    if pass_name == "forward":
        return Expected(y, images)
    if pass_name == "grad_input":
        return Expected(dpadded[:, :, top : top + geometry.h, left : left + geometry.w], images)
    return Expected(dweight)


def _mixed(matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return images (N, A, H, W) with their channels multiplied by a matrix (B, A)."""
    return np.moveaxis(np.tensordot(matrix, images, axes=((1,), (1,))), 0, 1)


def layer(op: str, x: np.ndarray, dy: np.ndarray, options: Mapping[str, Any]) -> dict[str, Expected]:
    """Return what an op gives forward, and backward to its input."""
    if op == "batch_norm":
        return _batch_norm(np.asarray(x, np.float64), np.asarray(dy, np.float64), options)
    images = _some(x.shape[0])
    x, dy = (np.asarray(array[list(images)], np.float64) for array in (x, dy))
    if op == "relu":
        y, dx = np.where(x > 0, x, 0), np.where(x > 0, dy, 0)
    else:
        y, dx = _pool(op, x, dy, **options)
    return {"forward": Expected(y, images), "backward": Expected(dx, images)}


def _batch_norm(x: np.ndarray, dy: np.ndarray, options: Mapping[str, Any]) -> dict[str, Expected]:
    axes = (0, 2, 3)
    weight, bias = (np.asarray(options[name], np.float64)[:, None, None] for name in ("weight", "bias"))
    centred = x - x.mean(axes, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
    normal, dnormal = centred * scale, dy * weight
    # The mean and the variance depend on x too: what they take away is a mean, and a multiple of `normal`.
    means = dnormal.mean(axes, keepdims=True), (dnormal * normal).mean(axes, keepdims=True)
    dx = scale * (dnormal - means[0] - normal * means[1])
    return {"forward": Expected(normal * weight + bias), "backward": Expected(dx)}


def _pool(
    op: str, x: np.ndarray, dy: np.ndarray, kernel_size: int, stride: int | None = None, padding: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    stride = stride or kernel_size
    oh, ow = dy.shape[2:]
    around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = np.pad(x, around, constant_values=-np.inf if op == "max_pool2d" else 0)
    dpadded = np.zeros_like(padded)
    taps = [
        (..., slice(r, r + stride * (oh - 1) + 1, stride), slice(s, s + stride * (ow - 1) + 1, stride))
        for r, s in product(range(kernel_size), repeat=2)
    ]
    if op == "max_pool2d":
        stacked = np.stack([padded[tap] for tap in taps])
        y, which = stacked.max(axis=0), stacked.argmax(axis=0)  # the first of equal ones
        for i, tap in enumerate(taps):
            dpadded[tap] += np.where(which == i, dy, 0)
    else:
        y = sum(padded[tap] for tap in taps) / len(taps)
        for tap in taps:
            dpadded[tap] += dy / len(taps)
    height, width = x.shape[2:]
    return y, dpadded[..., padding : padding + height, padding : padding + width]
