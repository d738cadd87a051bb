"""Activations that multiply each element by a smooth gate of its own: GELU and SiLU."""

from __future__ import annotations

import math
from typing import NamedTuple

from xpcnn.backend import Array, Backend
from xpcnn.ops.activation import sigmoid
from xpcnn.ops.op import check_dy, common_backend, op, upcast

__all__ = ["InputContext", "gelu", "silu"]

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
