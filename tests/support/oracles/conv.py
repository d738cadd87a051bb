"""Convolution, forwards, backwards and transposed, and its patches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from tests.support.oracles.arrays import Array, Index, Pads, Pair, float64


def output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """How many positions a dilated kernel has on a padded axis; below 1 when it does not fit."""
    reach = dilation * (kernel - 1) + 1
    return (size + before + after - reach) // stride + 1


def _conv_terms(
    x_shape: Index, w_shape: Index, stride: Pair, pads: Pads, dilation: Pair, groups: int
) -> Iterator[tuple[Index, Index, Index]]:
    """Index triples (y, w, x) of every product w·x that a convolution adds into y; padding adds none."""
    n_images, _, height, width = x_shape
    n_outputs, channels, kh, kw = w_shape
    top, bottom, left, right = pads
    out_height = output_size(height, kh, stride[0], top, bottom, dilation[0])
    out_width = output_size(width, kw, stride[1], left, right, dilation[1])
    for n, k, oy, ox in product(range(n_images), range(n_outputs), range(out_height), range(out_width)):
        group = k // (n_outputs // groups)
        for c, i, j in product(range(channels), range(kh), range(kw)):
            row = oy * stride[0] + i * dilation[0] - top
            column = ox * stride[1] + j * dilation[1] - left
            if 0 <= row < height and 0 <= column < width:
                yield (n, k, oy, ox), (k, c, i, j), (n, group * channels + c, row, column)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Cross-correlation, by definition."""
    top, bottom, left, right = pads
    out_height = output_size(x.shape[2], weight.shape[2], stride[0], top, bottom, dilation[0])
    out_width = output_size(x.shape[3], weight.shape[3], stride[1], left, right, dilation[1])
    y = np.zeros((x.shape[0], weight.shape[0], out_height, out_width))
    x, weight = float64(x), float64(weight)
    for at_y, at_w, at_x in _conv_terms(x.shape, weight.shape, stride, pads, dilation, groups):
        y[at_y] += weight[at_w] * x[at_x]
    if bias is not None:
        for k in range(weight.shape[0]):
            y[:, k] += float(bias[k])
    return y


def conv2d_gradients(
    x: Array,
    weight: Array,
    dy: Array,
    stride: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias): each product w·x in y sends dy·w to x and dy·x to w."""
    x, weight, dy = float64(x), float64(weight), float64(dy)
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for at_y, at_w, at_x in _conv_terms(x.shape, weight.shape, stride, pads, dilation, groups):
        dx[at_x] += dy[at_y] * weight[at_w]
        dweight[at_w] += dy[at_y] * x[at_x]
    dbias = float64([dy[:, k].sum() for k in range(weight.shape[0])])
    return dx, dweight, dbias


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
    x, weight = float64(x), float64(weight)
    y = np.zeros((x.shape[0], weight.shape[1] * groups, height, width))
    options = ((height, width), stride, padding, dilation, groups)
    for at_y, at_w, at_x in _transposed_terms(x.shape, weight.shape, *options):
        y[at_y] += weight[at_w] * x[at_x]
    if bias is not None:
        for k in range(y.shape[1]):
            y[:, k] += float(bias[k])
    return y


def conv_transpose2d_gradients(
    x: Array,
    weight: Array,
    dy: Array,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias): each product w·x in y sends dy·w to x and dy·x to w."""
    x, weight, dy = float64(x), float64(weight), float64(dy)
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    options = ((dy.shape[2], dy.shape[3]), stride, padding, dilation, groups)
    for at_y, at_w, at_x in _transposed_terms(x.shape, weight.shape, *options):
        dx[at_x] += dy[at_y] * weight[at_w]
        dweight[at_w] += dy[at_y] * x[at_x]
    return dx, dweight, float64([dy[:, k].sum() for k in range(dy.shape[1])])


def _patch_terms(
    x_shape: Index, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair
) -> Iterator[tuple[Index, Index]]:
    """Index pairs (columns, x): one row for each output position, channels slowest along a row."""
    _, channels, height, width = x_shape
    top, bottom, left, right = pads
    out_height = output_size(height, kernel[0], stride[0], top, bottom, dilation[0])
    out_width = output_size(width, kernel[1], stride[1], left, right, dilation[1])
    one_filter = (1, channels, *kernel)
    for (n, _, oy, ox), (_, c, i, j), at_x in _conv_terms(x_shape, one_filter, stride, pads, dilation, 1):
        row = (n * out_height + oy) * out_width + ox
        yield (row, (c * kernel[0] + i) * kernel[1] + j), at_x


def im2col(
    x: Array, kernel: Pair, stride: Pair = (1, 1), pads: Pads = (0, 0, 0, 0), dilation: Pair = (1, 1)
) -> Array:
    """The classical matrix (N·OH·OW, C·kh·kw); zeros where a patch lies over the padding."""
    top, bottom, left, right = pads
    out_height = output_size(x.shape[2], kernel[0], stride[0], top, bottom, dilation[0])
    out_width = output_size(x.shape[3], kernel[1], stride[1], left, right, dilation[1])
    columns = np.zeros((x.shape[0] * out_height * out_width, x.shape[1] * kernel[0] * kernel[1]))
    for at_columns, at_x in _patch_terms(x.shape, kernel, stride, pads, dilation):
        columns[at_columns] = x[at_x]
    return columns


def col2im(
    columns: Array,
    x_shape: Index,
    kernel: Pair,
    stride: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
) -> Array:
    """The adjoint of `im2col`: every entry is added to the pixel it was taken from."""
    x = np.zeros(x_shape)
    for at_columns, at_x in _patch_terms(x_shape, kernel, stride, pads, dilation):
        x[at_x] += columns[at_columns]
    return x
