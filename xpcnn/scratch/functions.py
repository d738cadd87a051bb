"""The book's functions (``common/functions.py``) over the core's ops.

Arrays may be of any backend and any real dtype; numbers and lists are made arrays of the current backend.
A single value is a number of NumPy's on that backend, and a 0-d array on the others.
"""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, backend_of, is_array
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.op import check_backend, require_array, upcast
from xpcnn.scratch._arrays import as_floating, cast_like, class_numbers, promote, size_of
from xpcnn.scratch._namespace import np

__all__ = [
    "cross_entropy_error",
    "identity_function",
    "mean_squared_error",
    "np",
    "relu",
    "relu_grad",
    "sigmoid",
    "sigmoid_grad",
    "softmax",
    "softmax_loss",
    "step_function",
    "sum_squared_error",
]


def identity_function(x: Any) -> Any:
    """Return `x` itself: the output function of a regression."""
    return x


def step_function(x: Any) -> Array:
    """Return 1 where `x` is above 0, else 0, as integers: the perceptron's.

    Examples
    --------
    >>> from xpcnn.scratch.functions import step_function
    >>> step_function([-1.0, 0.0, 2.0])
    array([0, 0, 1])
    """
    x = as_floating(x)
    xp = backend_of(x).xp
    return xp.astype(x > 0, xp.int64)


def sigmoid(x: Any) -> Array:
    """Return ``1 / (1 + exp(−x))``, without overflow for any `x`.

    Examples
    --------
    >>> from xpcnn.scratch.functions import sigmoid
    >>> sigmoid([-1000.0, 0.0])
    array([0. , 0.5])
    """
    return ops.sigmoid(as_floating(x))[0]


def sigmoid_grad(x: Any) -> Array:
    """Return the derivative of `sigmoid` at `x`."""
    y, ctx = ops.sigmoid(as_floating(x))
    dx: Array = ops.sigmoid.backward(ctx, backend_of(y).xp.ones_like(y))
    return dx


def relu(x: Any) -> Array:
    """Return ``max(x, 0)`` in the dtype of `x`.

    Examples
    --------
    >>> from xpcnn.scratch.functions import relu
    >>> relu([-1.0, 2.0])
    array([0., 2.])
    """
    y, _ = ops.relu(as_floating(x))
    return cast_like(y, x) if is_array(x) else y


def relu_grad(x: Any) -> Array:
    """Return 1 where `x` is at least 0, else 0.

    At 0 the book's function gives 1, while its Relu layer hands on no gradient there. Both are kept.
    """
    x = as_floating(x)
    return cast_like(x >= 0, x)


def softmax(x: Any) -> Array:
    """Return ``exp(x) / Σ exp(x)`` along the last axis: of one sample (classes,) or of a batch (N, classes).

    Examples
    --------
    >>> from xpcnn.scratch.functions import softmax
    >>> softmax([1010.0, 1000.0, 990.0]).round(4)
    array([1., 0., 0.])
    """
    return ops.softmax(as_floating(x))[0]


def mean_squared_error(y: Any, t: Any) -> Any:
    """Return ``½ Σ (y − t)²`` over all elements: a sum, whatever the name that the first printings gave it.

    Parameters
    ----------
    y, t : array, the same shape

    Examples
    --------
    >>> from xpcnn.scratch.functions import mean_squared_error
    >>> float(mean_squared_error([0.1, 0.9], [0.0, 1.0]).round(6))
    0.01
    """
    y, t = promote("mean_squared_error", y=as_floating(y), t=t)
    return (ops.mean_squared_error(y, t)[0] * (size_of(y) / 2))[()]


sum_squared_error = mean_squared_error
"""Its name in later printings."""


def cross_entropy_error(y: Any, t: Any) -> Any:
    """Return the mean of ``−log(y + 1e-7)`` at the true class.

    The core's loss takes logits; this one takes probabilities, as the book's does, and its 1e-7 keeps a
    probability of 0 finite.

    Parameters
    ----------
    y : array (N, classes) or (classes,)
        Probabilities. Half precision is summed in float32.
    t : array
        Labels (N,) or (N, 1), or one-hot rows of the shape of `y`.

    Raises
    ------
    ArgumentError
        For a label outside 0 … classes − 1, on backends where looking costs nothing.

    Examples
    --------
    >>> from xpcnn.scratch.functions import cross_entropy_error
    >>> round(float(cross_entropy_error([0.1, 0.05, 0.6, 0.25], [0, 0, 1, 0])), 6)
    0.510825
    """
    y, t = as_batch(y, t)
    backend = backend_of(y, t)
    xp = backend.xp
    labels = xp.astype(class_numbers(t), xp.int64, copy=False)
    n, classes = y.shape
    if backend.is_host and bool(xp.any((labels < 0) | (labels >= classes))):
        raise ArgumentError(f"cross_entropy_error: a label is outside 0 to {classes - 1}")
    likelihood = xp.take_along_axis(upcast(backend, y), xp.reshape(labels, (-1, 1)), axis=1)
    return cast_like(-xp.sum(xp.log(likelihood + 1e-7)) / n, y)[()]


def softmax_loss(X: Any, t: Any) -> Any:
    """Return the cross-entropy of ``softmax(X)``, exact where a probability would round to 0.

    Parameters
    ----------
    X : array (N, classes) or (classes,)
        Logits.
    t : array
        As for `cross_entropy_error`.
    """
    return ops.softmax_cross_entropy(*as_batch(X, t))[0][()]


def as_batch(y: Any, t: Any) -> tuple[Array, Array]:
    """Return scores (N, classes) and their targets, of a batch or of a single sample (classes,).

    `t` may be labels (N,) or (N, 1), or rows like those of `y`. It becomes what the core's losses take:
    labels (N,), or rows in the dtype of `y`.
    """
    y = as_floating(y)
    if y.ndim < 1:
        raise ShapeError("scores must have shape (N, classes) or (classes,), got a single number")
    backend = backend_of(y)
    t = require_array("labels", "t", t if is_array(t) else backend.asarray(t))
    check_backend("labels", "y", backend, "t", t)
    if y.ndim == 1:
        y, t = backend.xp.reshape(y, (1, -1)), backend.xp.reshape(t, (1, -1))
    if tuple(t.shape) == tuple(y.shape):
        return y, cast_like(t, y)
    return y, backend.xp.reshape(t, (-1,)) if size_of(t) == y.shape[0] else t
