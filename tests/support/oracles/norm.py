"""Normalisation over a batch, within a sample, and over neighbouring channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from tests.support.oracles.arrays import Array, Index, float64


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
