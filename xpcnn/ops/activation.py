"""Element-wise functions. Each keeps its input's memory order."""

from __future__ import annotations

import math
from typing import NamedTuple

from xpcnn.backend import Array, Backend, backend_of, primitive
from xpcnn.ops.op import check_dy, common_backend, op, real, upcast

__all__ = ["InputContext", "OutputContext", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "tanh"]


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
def add(x: Array, other: Array) -> Array:
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


# -- a smooth gate for each element ----------------------------------------------------

# exp(−x²/2) is 0 from here on, in any dtype.
_FAR = 40.0


class InputContext(NamedTuple):
    """A reference to the input, from which backward finds the gate again."""

    x: Array


@op
def gelu(x: Array) -> tuple[Array, InputContext]:
    """Return ``x·Φ(x)``, where Φ is the normal distribution's cumulative function: the exact form.

    Parameters
    ----------
    x : array, any shape
        Half precision is computed in float32.

    Returns
    -------
    y : array, the shape of `x`
    ctx : InputContext
        Keeps a reference to `x`.

    Notes
    -----
    ``Φ(x) = erfc(−x/√2)/2`` rather than ``(1 + erf(x/√2))/2``, which is the same but loses all digits of the
    left tail.

    References
    ----------
    Hendrycks and Gimpel, "Gaussian error linear units (GELUs)", 2016.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.gelu(xpcnn.asarray([-100.0, 0.0, 100.0]))[0]
    array([ -0.,   0., 100.])
    """
    backend = common_backend("gelu", x=x)
    wide = upcast(backend, x)
    y = wide * _normal_cdf(backend, wide)
    return backend.xp.astype(y, x.dtype, copy=False), InputContext(x)


@gelu.def_backward
def _gelu_grad(ctx: InputContext, dy: Array) -> Array:
    """Return dx = dy·(Φ(x) + x·φ(x)), where φ is the normal distribution's density."""
    backend = check_dy("gelu.backward", dy, ctx.x.shape, ctx.x)
    xp = backend.xp
    x = upcast(backend, ctx.x)
    near = xp.minimum(xp.abs(x), xp.full((), _FAR, dtype=x.dtype, device=backend.device))
    density = xp.exp(near * near * -0.5) * (1 / math.sqrt(2 * math.pi))
    dx = upcast(backend, dy) * (_normal_cdf(backend, x) + x * density)
    return xp.astype(dx, dy.dtype, copy=False)


@op
def silu(x: Array) -> tuple[Array, InputContext]:
    """Return ``x·σ(x)``, where σ is the logistic function; also called swish.

    Parameters
    ----------
    x : array, any shape
        Half precision is computed in float32.

    Returns
    -------
    y : array, the shape of `x`
    ctx : InputContext
        Keeps a reference to `x`.

    References
    ----------
    Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", 2018.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.silu(xpcnn.asarray([-1000.0, 0.0, 1000.0]))[0]
    array([  -0.,    0., 1000.])
    """
    backend = common_backend("silu", x=x)
    wide = upcast(backend, x)
    return backend.xp.astype(wide * sigmoid(wide)[0], x.dtype, copy=False), InputContext(x)


@silu.def_backward
def _silu_grad(ctx: InputContext, dy: Array) -> Array:
    """Return dx = dy·σ(x)·(1 + x·σ(−x))."""
    backend = check_dy("silu.backward", dy, ctx.x.shape, ctx.x)
    x = upcast(backend, ctx.x)
    gate, _ = sigmoid(x)
    dx = upcast(backend, dy) * (gate * (1 + x * (1 - gate)))
    return backend.xp.astype(dx, dy.dtype, copy=False)


def _normal_cdf(backend: Backend, x: Array) -> Array:
    return backend.erfc(x * -math.sqrt(0.5)) * 0.5
