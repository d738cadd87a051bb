"""Reference answers: float64, slow and obvious, importing nothing from xpcnn.

Every function takes NumPy arrays (NCHW, PyTorch's weight layouts) and follows the definition with plain
loops, so that reading it is enough to believe it. `test_oracles.py` still holds each against PyTorch, and
each backward against `numeric_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Index = tuple[int, ...]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Padding as (top, bottom, left, right)."""


def float64(values: Any) -> Array:
    """A float64 copy of anything NumPy reads."""
    return np.array(values, dtype=np.float64)


def numeric_gradient(f: Callable[[Array], float], x: Array, step: float = 1e-5) -> Array:
    """df/dx by central differences, one element at a time."""
    x = float64(x)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = f(x)
        x[index] = kept - step
        below = f(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


# Convolution ------------------------------------------------------------------------------------------


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


# Pooling ----------------------------------------------------------------------------------------------


def pool_output_size(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """PyTorch's rule: with ceil_mode a last partial window counts if it starts before the right padding."""
    span = size + 2 * padding - kernel
    if not ceil_mode:
        return span // stride + 1
    count = math.ceil(span / stride) + 1
    if (count - 1) * stride >= size + padding:
        count -= 1
    return count


def _pool_axis(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[tuple[slice, int]]:
    """For each window of one axis: the pixels it covers, and its extent counting the padding it covers."""
    windows = []
    for o in range(pool_output_size(size, kernel, stride, padding, ceil_mode)):
        start = o * stride - padding
        stop = min(start + kernel, size + padding)  # a ceil_mode window is cut where the padding ends
        windows.append((slice(max(start, 0), min(stop, size)), stop - start))
    return windows


def _pool_windows(
    x_shape: Index, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool
) -> Iterator[tuple[Index, tuple[int, int, slice, slice], int]]:
    """(output index, window of x, area with padding) for every pooling window."""
    rows = _pool_axis(x_shape[2], kernel[0], stride[0], padding[0], ceil_mode)
    columns = _pool_axis(x_shape[3], kernel[1], stride[1], padding[1], ceil_mode)
    for n, c in product(range(x_shape[0]), range(x_shape[1])):
        for oy, (window_rows, tall) in enumerate(rows):
            for ox, (window_columns, wide) in enumerate(columns):
                yield (n, c, oy, ox), (n, c, window_rows, window_columns), tall * wide


def _pool_result(x_shape: Index, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool) -> Array:
    sizes = [
        pool_output_size(*axis, ceil_mode) for axis in zip(x_shape[2:], kernel, stride, padding, strict=True)
    ]
    return np.zeros((x_shape[0], x_shape[1], *sizes))


def max_pool2d(
    x: Array, kernel: Pair, stride: Pair, padding: Pair = (0, 0), ceil_mode: bool = False
) -> Array:
    """The largest pixel of each window; padding never wins."""
    y = _pool_result(x.shape, kernel, stride, padding, ceil_mode)
    for at, window, _ in _pool_windows(x.shape, kernel, stride, padding, ceil_mode):
        y[at] = x[window].max()
    return y


def max_pool2d_gradients(
    x: Array, dy: Array, kernel: Pair, stride: Pair, padding: Pair = (0, 0), ceil_mode: bool = False
) -> Array:
    """The whole gradient goes to the first largest pixel, in row-major order of the window."""
    dx = np.zeros(x.shape)
    for at, window, _ in _pool_windows(x.shape, kernel, stride, padding, ceil_mode):
        first = np.unravel_index(np.argmax(x[window]), x[window].shape)
        dx[window][first] += dy[at]
    return dx


def avg_pool2d(
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The mean of each window, over the pixels in it or over its area with the padding."""
    x = float64(x)
    y = _pool_result(x.shape, kernel, stride, padding, ceil_mode)
    for at, window, area in _pool_windows(x.shape, kernel, stride, padding, ceil_mode):
        y[at] = x[window].sum() / (area if count_include_pad else x[window].size)
    return y


def avg_pool2d_gradients(
    x_shape: Index,
    dy: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Each pixel of a window gets an equal part of its gradient."""
    dx = np.zeros(x_shape)
    for at, window, area in _pool_windows(x_shape, kernel, stride, padding, ceil_mode):
        dx[window] += dy[at] / (area if count_include_pad else dx[window].size)
    return dx


def _adaptive_windows(x_shape: Index, size: Pair) -> Iterator[tuple[Index, tuple[int, int, slice, slice]]]:
    height, width = x_shape[2:]
    for n, c, oy, ox in product(range(x_shape[0]), range(x_shape[1]), range(size[0]), range(size[1])):
        rows = slice(math.floor(oy * height / size[0]), math.ceil((oy + 1) * height / size[0]))
        columns = slice(math.floor(ox * width / size[1]), math.ceil((ox + 1) * width / size[1]))
        yield (n, c, oy, ox), (n, c, rows, columns)


def adaptive_avg_pool2d(x: Array, size: Pair) -> Array:
    """The mean over `size` near-equal windows, which may share a row or column."""
    x = float64(x)
    y = np.zeros((*x.shape[:2], *size))
    for at, window in _adaptive_windows(x.shape, size):
        y[at] = x[window].mean()
    return y


def adaptive_avg_pool2d_gradients(x_shape: Index, dy: Array, size: Pair) -> Array:
    """Each pixel of a window gets an equal part of its gradient."""
    dx = np.zeros(x_shape)
    for at, window in _adaptive_windows(x_shape, size):
        dx[window] += dy[at] / dx[window].size
    return dx


# Linear and activations -------------------------------------------------------------------------------


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """y[..., o] = Σ_i x[..., i] · weight[o, i] + bias[o]."""
    y = np.zeros((*x.shape[:-1], weight.shape[0]))
    for at in np.ndindex(*x.shape[:-1]):
        for o in range(weight.shape[0]):
            y[(*at, o)] = math.fsum(float64(x[at]) * float64(weight[o]))
            if bias is not None:
                y[(*at, o)] += float(bias[o])
    return y


def linear_gradients(x: Array, weight: Array, dy: Array) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias)."""
    x, weight, dy = float64(x), float64(weight), float64(dy)
    dx, dweight, dbias = np.zeros_like(x), np.zeros_like(weight), np.zeros(weight.shape[0])
    for at in np.ndindex(*x.shape[:-1]):
        for o in range(weight.shape[0]):
            dx[at] += dy[(*at, o)] * weight[o]
            dweight[o] += dy[(*at, o)] * x[at]
            dbias[o] += dy[(*at, o)]
    return dx, dweight, dbias


def _each(f: Callable[[float], float], x: Array) -> Array:
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = f(float(x[at]))
    return y


def _logistic(v: float) -> float:
    return 1 / (1 + math.exp(-v)) if v >= 0 else math.exp(v) / (1 + math.exp(v))


def relu(x: Array) -> Array:
    return _each(lambda v: v if v > 0 or math.isnan(v) else 0.0, x)


def relu_gradients(x: Array, dy: Array) -> Array:
    return dy * _each(lambda v: 1.0 if v > 0 else 0.0, x)


def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return _each(lambda v: v if v > 0 else slope * v, x)


def leaky_relu_gradients(x: Array, dy: Array, slope: float = 0.01) -> Array:
    return dy * _each(lambda v: 1.0 if v > 0 else slope, x)


def sigmoid(x: Array) -> Array:
    return _each(_logistic, x)


def sigmoid_gradients(x: Array, dy: Array) -> Array:
    return dy * _each(lambda v: _logistic(v) * _logistic(-v), x)


def tanh(x: Array) -> Array:
    return _each(math.tanh, x)


def tanh_gradients(x: Array, dy: Array) -> Array:
    return dy * _each(lambda v: (1 - math.tanh(v)) * (1 + math.tanh(v)), x)


def _normal_cdf(v: float) -> float:
    return math.erfc(-v / math.sqrt(2)) / 2


def gelu(x: Array) -> Array:
    return _each(lambda v: v * _normal_cdf(v), x)


def gelu_gradients(x: Array, dy: Array) -> Array:
    return dy * _each(lambda v: _normal_cdf(v) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi), x)


def silu(x: Array) -> Array:
    return _each(lambda v: v * _logistic(v), x)


def silu_gradients(x: Array, dy: Array) -> Array:
    return dy * _each(lambda v: _logistic(v) * (1 + v * _logistic(-v)), x)


def _along(f: Callable[..., Array], axis: int, *arrays: Array) -> Array:
    """Apply f to the vectors of `arrays` along one axis."""
    moved = [np.moveaxis(float64(a), axis, -1) for a in arrays]
    y = np.zeros(moved[0].shape)
    for at in np.ndindex(*y.shape[:-1]):
        y[at] = f(*(a[at] for a in moved))
    return np.moveaxis(y, -1, axis)


def _softmax_vector(v: Array) -> Array:
    e = np.exp(v - v.max())
    return e / math.fsum(e)


def _log_softmax_vector(v: Array) -> Array:
    shifted = v - v.max()
    return shifted - math.log(math.fsum(np.exp(shifted)))


def softmax(x: Array, axis: int = -1) -> Array:
    return _along(_softmax_vector, axis, x)


def softmax_gradients(x: Array, dy: Array, axis: int = -1) -> Array:
    def vector(v: Array, dv: Array) -> Array:
        s = _softmax_vector(v)
        jacobian = np.diag(s) - np.outer(s, s)
        return jacobian @ dv

    return _along(vector, axis, x, dy)


def log_softmax(x: Array, axis: int = -1) -> Array:
    return _along(_log_softmax_vector, axis, x)


def log_softmax_gradients(x: Array, dy: Array, axis: int = -1) -> Array:
    def vector(v: Array, dv: Array) -> Array:
        jacobian = np.eye(v.size) - _softmax_vector(v)[None, :]
        return jacobian.T @ dv

    return _along(vector, axis, x, dy)


# Batch normalisation ----------------------------------------------------------------------------------


def _channel(a: Array, c: int) -> Array:
    return float64(a[:, c])


def batch_statistics(x: Array) -> tuple[Array, Array, Array]:
    """(mean, biased variance, unbiased variance) of each channel over everything else."""
    channels = [_channel(x, c) for c in range(x.shape[1])]
    unbiased = [v.var(ddof=1) if v.size > 1 else math.nan for v in channels]
    return float64([v.mean() for v in channels]), float64([v.var() for v in channels]), float64(unbiased)


def batch_norm(
    x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, eps: float = 1e-5
) -> Array:
    """Normalise with the given statistics: the batch's own in training, the running ones otherwise."""
    y = np.zeros(x.shape)
    for c in range(x.shape[1]):
        y[:, c] = (_channel(x, c) - mean[c]) / math.sqrt(var[c] + eps)
        y[:, c] *= 1.0 if weight is None else weight[c]
        y[:, c] += 0.0 if bias is None else bias[c]
    return y


def batch_norm_gradients(
    x: Array, weight: Array | None, dy: Array, mean: Array, var: Array, train: bool, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) by the chain rule; in training the mean and variance depend on x as well."""
    dx = np.zeros(x.shape)
    dweight, dbias = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        dy_c = _channel(dy, c)
        centred = _channel(x, c) - mean[c]
        scale = 1 / math.sqrt(var[c] + eps)
        dweight[c] = (dy_c * centred * scale).sum()
        dbias[c] = dy_c.sum()
        d_normal = dy_c * (1.0 if weight is None else weight[c])
        d_centred = d_normal * scale
        if train:
            d_var = (d_normal * centred).sum() * -0.5 * scale**3
            d_centred += d_var * 2 * centred / centred.size
            d_centred -= d_centred.mean()  # through the batch mean
        dx[:, c] = d_centred
    return dx, dweight, dbias


# Normalisation within a sample ------------------------------------------------------------------------


def _normalised(part: Array, eps: float) -> Array:
    """All values of a part, to mean 0 and variance 1."""
    values = float64(part)
    return (values - values.mean()) / math.sqrt(values.var() + eps)


def _normalised_backward(part: Array, d_normal: Array, eps: float) -> Array:
    """The gradient for a part: every value moves its mean and its variance too."""
    values, d_normal = float64(part), float64(d_normal)
    centred, scale = values - values.mean(), 1 / math.sqrt(values.var() + eps)
    d_var = (d_normal * centred).sum() * -0.5 * scale**3
    d_centred = d_normal * scale + d_var * 2 * centred / centred.size
    return d_centred - d_centred.mean()


def layer_norm(
    x: Array, axes: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> Array:
    """Normalise over the last `axes` axes."""
    y = np.zeros(x.shape)
    for at in np.ndindex(*x.shape[: x.ndim - axes]):
        y[at] = _normalised(x[at], eps)
        y[at] = y[at] * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)
    return y


def layer_norm_gradients(
    x: Array, axes: int, weight: Array, dy: Array, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias)."""
    weight = float64(weight)
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(weight.shape)
    for at in np.ndindex(*x.shape[: x.ndim - axes]):
        dx[at] = _normalised_backward(x[at], float64(dy[at]) * weight, eps)
        dweight += float64(dy[at]) * _normalised(x[at], eps)
        dbias += float64(dy[at])
    return dx, dweight, dbias


def _groups(x_shape: Index, groups: int) -> Iterator[tuple[int, slice]]:
    size = x_shape[1] // groups
    for n, g in product(range(x_shape[0]), range(groups)):
        yield n, slice(g * size, (g + 1) * size)


def group_norm(
    x: Array, groups: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> Array:
    """Normalise over each group of channels and all their pixels."""
    y = np.zeros(x.shape)
    for part in _groups(x.shape, groups):
        y[part] = _normalised(x[part], eps)
    for c in range(x.shape[1]):
        y[:, c] *= 1.0 if weight is None else weight[c]
        y[:, c] += 0.0 if bias is None else bias[c]
    return y


def group_norm_gradients(
    x: Array, groups: int, weight: Array, dy: Array, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias)."""
    normal = group_norm(x, groups, eps=eps)
    d_normal = np.stack([float64(dy[:, c]) * float(weight[c]) for c in range(x.shape[1])], axis=1)
    dx = np.zeros(x.shape)
    for part in _groups(x.shape, groups):
        dx[part] = _normalised_backward(x[part], d_normal[part], eps)
    dweight = float64([(dy[:, c] * normal[:, c]).sum() for c in range(x.shape[1])])
    return dx, dweight, float64([float64(dy[:, c]).sum() for c in range(x.shape[1])])


def _energies(x: Array, size: int, alpha: float, k: float) -> Iterator[tuple[Index, range, float]]:
    """(index, channels of its window, k + alpha/size · Σ x²) for every element."""
    for at in np.ndindex(x.shape):
        c = at[1]
        window = range(max(c - size // 2, 0), min(c + (size - 1) // 2 + 1, x.shape[1]))
        total = math.fsum(float(x[(at[0], j, *at[2:])]) ** 2 for j in window)
        yield at, window, k + alpha / size * total


def local_response_norm(
    x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """Each value over a power of the energy in its window of channels."""
    y = np.zeros(x.shape)
    for at, _, energy in _energies(x, size, alpha, k):
        y[at] = float(x[at]) / energy**beta
    return y


def local_response_norm_gradients(
    x: Array, dy: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """Each output sends its gradient to its own input, and to all of its window through the energy."""
    x, dy = float64(x), float64(dy)
    dx = np.zeros(x.shape)
    for at, window, energy in _energies(x, size, alpha, k):
        dx[at] += dy[at] / energy**beta
        for j in window:
            other = (at[0], j, *at[2:])
            dx[other] -= dy[at] * x[at] * beta * energy ** (-beta - 1) * 2 * alpha / size * x[other]
    return dx


# Losses -----------------------------------------------------------------------------------------------


def target_rows(target: Array, classes: int, label_smoothing: float = 0.0) -> Array:
    """Labels or one-hot rows as smoothed probability rows (N, K)."""
    rows = np.zeros((target.shape[0], classes))
    for n in range(target.shape[0]):
        if target.ndim == 1:
            rows[n, int(target[n])] = 1.0
        else:
            rows[n] = target[n]
    return (1 - label_smoothing) * rows + label_smoothing / classes


def softmax_cross_entropy(logits: Array, target: Array, label_smoothing: float = 0.0) -> Array:
    """The mean over the batch of −Σ_k q_k · log p_k, as a 0-d array."""
    log_p = log_softmax(logits)
    q = target_rows(target, logits.shape[1], label_smoothing)
    terms = [-q[n, k] * log_p[n, k] for n, k in np.ndindex(q.shape) if q[n, k] != 0]
    return float64(math.fsum(terms) / logits.shape[0])


def softmax_cross_entropy_gradients(
    logits: Array, target: Array, label_smoothing: float = 0.0, dy: float = 1.0
) -> Array:
    q = target_rows(target, logits.shape[1], label_smoothing)
    return log_softmax_gradients(logits, -q * dy / logits.shape[0])


def mean_squared_error(y: Array, target: Array) -> Array:
    """The mean over all elements of (y − target)², as a 0-d array."""
    return float64(math.fsum(((float64(y) - float64(target)) ** 2).ravel()) / y.size)


def mean_squared_error_gradients(y: Array, target: Array, dy: float = 1.0) -> Array:
    return 2 * (float64(y) - float64(target)) * dy / y.size
