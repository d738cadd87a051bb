"""Dropout: zero a random part of the activations while training."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from xpcnn.backend import Array, Key, backend_of, primitive
from xpcnn.ops.op import check_dy, common_backend, op, real

__all__ = ["DropoutContext", "dropout"]


class DropoutContext(NamedTuple):
    """The mask: 0 where an element was dropped, 1/(1 − p) where it was kept."""

    mask: Array


@op
def dropout(x: Array, p: float, key: Key | int) -> tuple[Array, DropoutContext]:
    """Zero each element with probability `p` and scale the others by 1/(1 − p), so the mean is kept.

    Parameters
    ----------
    x : array, any shape
    p : float
        From 0 (keep all) to 1 (drop all).
    key : Key or int
        What the mask is a function of: the same key and shape give the same mask on the same backend.
        Drawn on the device of `x`.

    Returns
    -------
    y : array, the shape of `x`
    ctx : DropoutContext

    References
    ----------
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.dropout(xpcnn.asarray([1.0, 1.0, 1.0, 1.0]), 0.5, key=0)
    >>> set(y.tolist()) <= {0.0, 2.0}
    True
    """
    common_backend("dropout", x=x)
    y, mask = drop(x, real("dropout: p", p, 0, 1), Key.of(key))
    return y, DropoutContext(mask)


@dropout.def_backward
def _dropout_grad(ctx: DropoutContext, dy: Array) -> Array:
    """Return dx: `dy` under the same mask."""
    check_dy("dropout.backward", dy, ctx.mask.shape, ctx.mask)
    return dy * ctx.mask


@partial(primitive, draws=True)
def drop(x: Array, p: float, key: Key) -> tuple[Array, Array]:
    """Return y and the mask, both in the memory order of `x`."""
    backend = backend_of(x)
    xp = backend.xp
    kept = backend.uniform(key, tuple(x.shape), x.dtype) >= p
    mask = xp.zeros_like(x)
    mask[...] = xp.astype(kept, x.dtype) * (1 / (1 - p) if p < 1 else 0.0)
    return x * mask, mask
