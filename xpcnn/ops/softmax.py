"""The softmax along an axis, and its logarithm."""

from __future__ import annotations

from typing import NamedTuple

from xpcnn.backend import Array
from xpcnn.errors import ArgumentError
from xpcnn.ops.op import below_max, check_dy, common_backend, op, upcast, whole

__all__ = ["SoftmaxContext", "log_softmax", "softmax"]


class SoftmaxContext(NamedTuple):
    """A reference to the output, and the axis that was normalised."""

    y: Array
    axis: int


@op
def softmax(x: Array, axis: int = -1) -> tuple[Array, SoftmaxContext]:
    """Return ``exp(x) / Σ exp(x)`` along an axis, shifted by the maximum so that nothing overflows.

    Parameters
    ----------
    x : array, any shape
    axis : int

    Returns
    -------
    y : array, the shape of `x`
    ctx : SoftmaxContext
        Keeps a reference to `y`.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.softmax(xpcnn.asarray([1000.0, 1000.0]))[0]
    array([0.5, 0.5])
    """
    backend = common_backend("softmax", x=x)
    xp = backend.xp
    axis = _check_axis("softmax", x, axis)
    y = xp.exp(below_max(backend, x, axis))
    y = xp.astype(y / xp.sum(y, axis=axis, keepdims=True), x.dtype, copy=False)
    return y, SoftmaxContext(y, axis)


@softmax.def_backward
def _softmax_grad(ctx: SoftmaxContext, dy: Array) -> Array:
    """Return dx = y·(dy − Σ dy·y)."""
    backend = check_dy("softmax.backward", dy, ctx.y.shape, ctx.y)
    xp = backend.xp
    y, wide_dy = upcast(backend, ctx.y), upcast(backend, dy)
    dx = y * (wide_dy - xp.sum(wide_dy * y, axis=ctx.axis, keepdims=True))
    return xp.astype(dx, dy.dtype, copy=False)


@op
def log_softmax(x: Array, axis: int = -1) -> tuple[Array, SoftmaxContext]:
    """Return ``x − log Σ exp(x)`` along an axis, exact where the softmax itself would round to 0.

    Parameters
    ----------
    x : array, any shape
    axis : int

    Returns
    -------
    y : array, the shape of `x`
    ctx : SoftmaxContext
        Keeps a reference to `y`.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.log_softmax(xpcnn.asarray([0.0, 1000.0]))[0]
    array([-1000.,     0.])
    """
    backend = common_backend("log_softmax", x=x)
    xp = backend.xp
    axis = _check_axis("log_softmax", x, axis)
    shifted = below_max(backend, x, axis)
    y = shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))
    y = xp.astype(y, x.dtype, copy=False)
    return y, SoftmaxContext(y, axis)


@log_softmax.def_backward
def _log_softmax_grad(ctx: SoftmaxContext, dy: Array) -> Array:
    """Return dx = dy − softmax(x)·Σ dy."""
    backend = check_dy("log_softmax.backward", dy, ctx.y.shape, ctx.y)
    xp = backend.xp
    y, wide_dy = upcast(backend, ctx.y), upcast(backend, dy)
    dx = wide_dy - xp.exp(y) * xp.sum(wide_dy, axis=ctx.axis, keepdims=True)
    return xp.astype(dx, dy.dtype, copy=False)


def _check_axis(op: str, x: Array, axis: int) -> int:
    axis = whole(f"{op}: axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ArgumentError(f"{op}: axis {axis} is out of range for x of shape {tuple(x.shape)}")
    if x.shape[axis] == 0:
        raise ArgumentError(f"{op}: axis {axis} of x is empty (shape {tuple(x.shape)})")
    return axis
