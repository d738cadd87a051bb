"""Convolution, forwards, backwards and transposed, and its patches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from tests.support.oracles.arrays import Array, Index, Pads, Pair, float64


def output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """How many positions a dilated kernel has on a padded axis; below 1 when it does not fit."""
    reach = dilation * (kernel - 1) + 1
    return (size + before + after - reach) // stride + 1


class Options(NamedTuple):
    """What follows the arrays of a convolution, with its defaults."""

    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def size(self, x_shape: Index, kernel: Index) -> Pair:
        """(OH, OW)."""
        (sh, sw), (top, bottom, left, right), (dh, dw), _ = self
        height = output_size(x_shape[2], kernel[0], sh, top, bottom, dh)
        return height, output_size(x_shape[3], kernel[1], sw, left, right, dw)


def _conv_terms(x_shape: Index, w_shape: Index, options: Options) -> Iterator[tuple[Index, Index, Index]]:
    """Index triples (y, w, x) of every product w·x that a convolution adds into y; padding adds none."""
    n_images, _, height, width = x_shape
    n_outputs, channels, kh, kw = w_shape
    stride, (top, _, left, _), dilation, groups = options
    out_height, out_width = options.size(x_shape, (kh, kw))
    for n, k, oy, ox in product(range(n_images), range(n_outputs), range(out_height), range(out_width)):
        group = k // (n_outputs // groups)
        for c, i, j in product(range(channels), range(kh), range(kw)):
            row = oy * stride[0] + i * dilation[0] - top
            column = ox * stride[1] + j * dilation[1] - left
            if 0 <= row < height and 0 <= column < width:
                yield (n, k, oy, ox), (k, c, i, j), (n, group * channels + c, row, column)


def _sums(terms: Any, y: Array, x: Array, weight: Array, bias: Array | None) -> Array:
    """Add all products, and the bias, into y."""
    x, weight = float64(x), float64(weight)
    for at_y, at_w, at_x in terms:
        y[at_y] += weight[at_w] * x[at_x]
    for k in range(0 if bias is None else y.shape[1]):
        y[:, k] += float(bias[k])
    return y


def _gradients(terms: Any, x: Array, weight: Array, dy: Array) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias): each product w·x in y sends dy·w to x and dy·x to w."""
    x, weight, dy = float64(x), float64(weight), float64(dy)
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for at_y, at_w, at_x in terms:
        dx[at_x] += dy[at_y] * weight[at_w]
        dweight[at_w] += dy[at_y] * x[at_x]
    return dx, dweight, float64([dy[:, k].sum() for k in range(dy.shape[1])])


def conv2d(x: Array, weight: Array, bias: Array | None = None, *given: Any, **named: Any) -> Array:
    """Cross-correlation, by definition; the options are those of `Options`."""
    options = Options(*given, **named)
    y = np.zeros((x.shape[0], weight.shape[0], *options.size(x.shape, weight.shape[2:])))
    return _sums(_conv_terms(x.shape, weight.shape, options), y, x, weight, bias)


def conv2d_gradients(
    x: Array, weight: Array, dy: Array, *given: Any, **named: Any
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias)."""
    terms = _conv_terms(x.shape, weight.shape, Options(*given, **named))
    return _gradients(terms, x, weight, dy)


def _transposed_terms(
    x_shape: Index, w_shape: Index, y_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Iterator[tuple[Index, Index, Index]]:
    """Index triples (y, w, x) of every product w·x that a transposed convolution adds into y."""
    per_group = x_shape[1] // groups
    _, outputs, kh, kw = w_shape
    for n, c, iy, ix in product(*map(range, x_shape)):
        for k, i, j in product(range(outputs), range(kh), range(kw)):
            row = iy * stride[0] + i * dilation[0] - padding[0]
            column = ix * stride[1] + j * dilation[1] - padding[1]
            if 0 <= row < y_size[0] and 0 <= column < y_size[1]:
                yield (n, (c // per_group) * outputs + k, row, column), (c, k, i, j), (n, c, iy, ix)


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Every pixel of x leaves a weighted copy of the kernel in y; `padding` is cut off on all sides."""
    height, width = (
        (x.shape[2 + a] - 1) * stride[a]
        - 2 * padding[a]
        + dilation[a] * (weight.shape[2 + a] - 1)
        + output_padding[a]
        + 1
        for a in (0, 1)
    )
    y = np.zeros((x.shape[0], weight.shape[1] * groups, height, width))
    terms = _transposed_terms(x.shape, weight.shape, (height, width), stride, padding, dilation, groups)
    return _sums(terms, y, x, weight, bias)


def conv_transpose2d_gradients(
    x: Array,
    weight: Array,
    dy: Array,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias)."""
    options = ((dy.shape[2], dy.shape[3]), stride, padding, dilation, groups)
    return _gradients(_transposed_terms(x.shape, weight.shape, *options), x, weight, dy)


def _patch_terms(x_shape: Index, kernel: Pair, options: Options) -> Iterator[tuple[Index, Index]]:
    """Index pairs (columns, x): one row for each output position, channels slowest along a row."""
    out_height, out_width = options.size(x_shape, kernel)
    for (n, _, oy, ox), (_, c, i, j), at_x in _conv_terms(x_shape, (1, x_shape[1], *kernel), options):
        row = (n * out_height + oy) * out_width + ox
        yield (row, (c * kernel[0] + i) * kernel[1] + j), at_x


def im2col(x: Array, kernel: Pair, *given: Any, **named: Any) -> Array:
    """The classical matrix (N·OH·OW, C·kh·kw); zeros where a patch lies over the padding."""
    options = Options(*given, **named)
    pixels = math.prod(options.size(x.shape, kernel))
    columns = np.zeros((x.shape[0] * pixels, x.shape[1] * kernel[0] * kernel[1]))
    for at_columns, at_x in _patch_terms(x.shape, kernel, options):
        columns[at_columns] = x[at_x]
    return columns


def col2im(columns: Array, x_shape: Index, kernel: Pair, *given: Any, **named: Any) -> Array:
    """The adjoint of `im2col`: every entry is added to the pixel it was taken from."""
    x = np.zeros(x_shape)
    for at_columns, at_x in _patch_terms(x_shape, kernel, Options(*given, **named)):
        x[at_x] += columns[at_columns]
    return x
