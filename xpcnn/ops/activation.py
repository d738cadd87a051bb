"""Element-wise functions and the softmax pair. Each keeps its input's memory order."""

from __future__ import annotations

from typing import NamedTuple

from xpcnn.backend import Array, Backend, backend_of, primitive
from xpcnn.errors import ArgumentError
from xpcnn.ops.op import below_max, check_dy, common_backend, op, real, upcast, whole

__all__ = [
    "LeakyReluContext",
    "OutputContext",
    "SoftmaxContext",
    "leaky_relu",
    "log_softmax",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]


class OutputContext(NamedTuple):
    """A reference to the output, which the next layer keeps anyway."""

    y: Array


@op
def relu(x: Array) -> tuple[Array, OutputContext]:
    """Return ``max(x, 0)``, element by element; NaN stays NaN.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    y : array, the shape of `x`
    ctx : OutputContext
        Keeps a reference to `y`.

    References
    ----------
    Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.relu(xpcnn.asarray([-1.0, 2.0]))[0]
    array([0., 2.])
    """
    common_backend("relu", x=x)
    y = relu_array(x)
    return y, OutputContext(y)


@primitive
def relu_array(x: Array) -> Array:
    """Return ``max(x, 0)``, element by element."""
    backend = backend_of(x)
    return backend.xp.maximum(x, backend.xp.zeros((), dtype=x.dtype, device=backend.device))


@relu.def_backward
def _relu_grad(ctx: OutputContext, dy: Array) -> Array:
    """Return dx: `dy` where the output was positive, else 0."""
    check_dy("relu.backward", dy, ctx.y.shape, ctx.y)
    return relu_grad(dy, ctx.y)


@primitive
def relu_grad(dy: Array, y: Array) -> Array:
    """Return `dy` where `y` is positive, else 0."""
    return backend_of(dy).masked(y > 0, dy)


@primitive
def added(x: Array, other: Array) -> Array:
    """Return ``x + other``, arrays of one shape: the sum of what two branches give."""
    return x + other


class LeakyReluContext(NamedTuple):
    """A reference to the input, and the slope."""

    x: Array
    slope: float


@op
def leaky_relu(x: Array, slope: float = 0.01) -> tuple[Array, LeakyReluContext]:
    """Return ``x`` where it is positive, else ``slope·x``.

    Parameters
    ----------
    x : array, any shape
    slope : float

    Returns
    -------
    y : array, the shape of `x`
    ctx : LeakyReluContext
        Keeps a reference to `x`.

    References
    ----------
    Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.leaky_relu(xpcnn.asarray([-1.0, 2.0]), 0.5)[0]
    array([-0.5,  2. ])
    """
    backend = common_backend("leaky_relu", x=x)
    slope = real("leaky_relu: slope", slope)
    return _leaky(backend, x, x, slope), LeakyReluContext(x, slope)


@leaky_relu.def_backward
def _leaky_relu_grad(ctx: LeakyReluContext, dy: Array) -> Array:
    """Return dx: `dy` where the input was positive, else ``slope·dy``."""
    backend = check_dy("leaky_relu.backward", dy, ctx.x.shape, ctx.x)
    return _leaky(backend, ctx.x, dy, ctx.slope)


def _leaky(backend: Backend, x: Array, values: Array, slope: float) -> Array:
    """Return `values` where `x` is positive, else ``slope·values``; half precision is computed in float32."""
    wide = upcast(backend, values)
    return backend.xp.astype(backend.xp.where(x > 0, wide, wide * slope), values.dtype, copy=False)


@op
def sigmoid(x: Array) -> tuple[Array, OutputContext]:
    """Return ``1 / (1 + exp(−x))``, without overflow for any `x`.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    y : array, the shape of `x`
    ctx : OutputContext
        Keeps a reference to `y`.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.sigmoid(xpcnn.asarray([0.0, 1000.0]))[0]
    array([0.5, 1. ])
    """
    backend = common_backend("sigmoid", x=x)
    xp = backend.xp
    # Nothing above 1 is raised to: exp(x)/(1 + exp(x)) on the left, 1/(1 + exp(−x)) on the right.
    numerator = xp.exp(xp.minimum(x, xp.zeros((), dtype=x.dtype, device=backend.device)))
    y = numerator / (1 + xp.exp(-xp.abs(x)))
    return y, OutputContext(y)


@sigmoid.def_backward
def _sigmoid_grad(ctx: OutputContext, dy: Array) -> Array:
    """Return dx = dy·y·(1 − y)."""
    check_dy("sigmoid.backward", dy, ctx.y.shape, ctx.y)
    return dy * (ctx.y * (1 - ctx.y))


@op
def tanh(x: Array) -> tuple[Array, OutputContext]:
    """Return the hyperbolic tangent.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    y : array, the shape of `x`
    ctx : OutputContext
        Keeps a reference to `y`.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.tanh(xpcnn.asarray([0.0, 1000.0]))[0]
    array([0., 1.])
    """
    y = common_backend("tanh", x=x).xp.tanh(x)
    return y, OutputContext(y)


@tanh.def_backward
def _tanh_grad(ctx: OutputContext, dy: Array) -> Array:
    """Return dx = dy·(1 − y²)."""
    check_dy("tanh.backward", dy, ctx.y.shape, ctx.y)
    return dy * (1 - ctx.y * ctx.y)


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
    axis = _checked_axis("softmax", x, axis)
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
    axis = _checked_axis("log_softmax", x, axis)
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


def _checked_axis(op: str, x: Array, axis: int) -> int:
    axis = whole(f"{op}: axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ArgumentError(f"{op}: axis {axis} is out of range for x of shape {tuple(x.shape)}")
    if x.shape[axis] == 0:
        raise ArgumentError(f"{op}: axis {axis} of x is empty (shape {tuple(x.shape)})")
    return axis
