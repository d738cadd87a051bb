"""The book's numerical differentiation (``common/gradient.py``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from xpcnn.backend import Array, backend_of, dtype_name
from xpcnn.errors import DtypeError
from xpcnn.ops.op import require_array
from xpcnn.scratch._arrays import is_floating
from xpcnn.scratch._namespace import np

__all__ = ["np", "numerical_gradient", "numerical_gradient_2d"]

_STEP = 1e-4


def numerical_gradient(f: Callable[[Array], Any], x: Array) -> Array:
    """Return the gradient of `f` at `x` by central differences with a step of 1e-4.

    Each element of `x` is changed in place while `f` runs, because the book's `f` often reads `x` through a
    network instead of its argument, and put back afterwards, whatever `f` raises.

    Parameters
    ----------
    f : callable
        Returns a number or a 0-d array.
    x : array, any shape, floating
        float64 for a gradient worth comparing with: at float32 about three digits are right.

    Returns
    -------
    array, the shape and dtype of `x`

    Raises
    ------
    DtypeError
        For integers, which the step would leave unchanged.

    Examples
    --------
    >>> from xpcnn.scratch import np
    >>> from xpcnn.scratch.gradient import numerical_gradient
    >>> numerical_gradient(lambda x: np.sum(x**2), np.array([3.0, 4.0])).round(6)
    array([6., 8.])
    """
    like = require_array("numerical_gradient", "x", x)
    if not is_floating(x):
        raise DtypeError(
            f"numerical_gradient: x must be floating, got {dtype_name(x.dtype)}, which a step of {_STEP} "
            f"does not move: write np.array([3.0, 4.0]), not np.array([3, 4])"
        )
    grad = backend_of(x).xp.zeros_like(like)
    for index in numpy.ndindex(tuple(x.shape)):
        here = float(x[index])
        try:
            x[index] = here + _STEP
            above = f(x)
            x[index] = here - _STEP
            below = f(x)
        finally:
            x[index] = here
        grad[index] = float(above - below) / (2 * _STEP)
    return grad


def numerical_gradient_2d(f: Callable[[Array], Any], X: Array) -> Array:
    """Return the gradient of `f`, a function of vectors, at a vector (n,) or each row of a matrix (m, n)."""
    if require_array("numerical_gradient_2d", "X", X).ndim == 1:
        return numerical_gradient(f, X)
    return backend_of(X).xp.stack([numerical_gradient(f, X[i, ...]) for i in range(X.shape[0])])
