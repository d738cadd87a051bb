"""Losses."""

from __future__ import annotations

import math

import numpy as np

from tests.support.oracles.arrays import Array, float64
from tests.support.oracles.dense import log_softmax, log_softmax_gradients


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
