"""Linear layers and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.support.oracles.arrays import Array, float64


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
