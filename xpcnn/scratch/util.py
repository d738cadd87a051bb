"""The book's helpers (``common/util.py``): the columns of a convolution, shuffling, a smoothed curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from xpcnn import ops
from xpcnn.backend import Array, backend_of, is_array, to_numpy
from xpcnn.backend.base import host_array
from xpcnn.ops.op import require_array
from xpcnn.scratch._arrays import as_floating, cast_like, samples
from xpcnn.scratch._namespace import np, random_of

__all__ = ["col2im", "conv_output_size", "im2col", "np", "shuffle_dataset", "smooth_curve"]

_WINDOW = 11


def smooth_curve(x: Any) -> numpy.ndarray:
    """Return a curve smoothed by a Kaiser window of 11 points, on the host and of the same length.

    Parameters
    ----------
    x : sequence of numbers, or array (N,)
        Of any backend, such as ``trainer.train_loss_list``. A curve of fewer points than the window is
        returned as it is.

    Examples
    --------
    >>> from xpcnn.scratch.util import smooth_curve
    >>> smooth_curve([1.0] * 20).round(6).tolist() == [1.0] * 20
    True
    """
    points = [to_numpy(p) if is_array(p) else p for p in x] if isinstance(x, Sequence) else x
    curve = numpy.asarray(require_array("smooth_curve", "x", host_array(points)), numpy.float64)
    if len(curve) < _WINDOW:
        return curve
    # Mirrored at both ends, so that the window is always full.
    around = numpy.concatenate([curve[_WINDOW - 1 : 0 : -1], curve, curve[:-_WINDOW:-1]])
    weights = numpy.kaiser(_WINDOW, 2)
    smoothed = numpy.convolve(weights / weights.sum(), around, mode="valid")
    return smoothed[_WINDOW // 2 : len(smoothed) - _WINDOW // 2]


def shuffle_dataset(x: Array, t: Array) -> tuple[Array, Array]:
    """Return samples and labels in one new random order, drawn by the global generator of their library.

    Parameters
    ----------
    x : array (N, ...)
    t : array (N, ...)
    """
    x, t = samples("shuffle_dataset", x, t)
    backend = backend_of(x, t)
    order = random_of(backend).permutation(x.shape[0])
    return backend.xp.take(x, order, axis=0), backend.xp.take(t, order, axis=0)


def conv_output_size(input_size: int, filter_size: int, stride: int = 1, pad: int = 0) -> int:
    """Return how many positions a filter has along an axis, rounded down where the stride does not divide.

    Examples
    --------
    >>> from xpcnn.scratch.util import conv_output_size
    >>> conv_output_size(28, 5), conv_output_size(28, 5, stride=2)
    (24, 12)
    """
    return (input_size + 2 * pad - filter_size) // stride + 1


def im2col(input_data: Array, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Array:
    """Unfold the patches of images into rows: (N, C, H, W) -> (N·OH·OW, C·filter_h·filter_w), dtype kept.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.scratch.util import im2col
    >>> im2col(xpcnn.asarray([[[[1, 2, 3], [4, 5, 6]]]]), 2, 2)
    array([[1, 2, 4, 5],
           [2, 3, 5, 6]])
    """
    columns = ops.im2col(as_floating(input_data), (filter_h, filter_w), stride, pad)
    return cast_like(columns, input_data)


def col2im(
    col: Array, input_shape: tuple[int, ...], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> Array:
    """Fold the rows of `im2col` back into images of `input_shape`, summed where they overlap; dtype kept."""
    shape: Any = tuple(input_shape)
    images = ops.col2im(as_floating(col), shape, (filter_h, filter_w), stride, pad)
    return cast_like(images, col)
