"""The fully connected layer's arithmetic, and images as its features."""

from __future__ import annotations

import math
from typing import NamedTuple

from xpcnn.backend import Array, Backend, matmul
from xpcnn.errors import ShapeError
from xpcnn.ops.op import check_dy, check_rank, check_shapes, common_backend, op, upcast

__all__ = ["FlattenContext", "LinearContext", "flatten", "linear"]


class LinearContext(NamedTuple):
    """References to the inputs."""

    x: Array
    weight: Array
    has_bias: bool


@op
def linear(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearContext]:
    """Multiply by a matrix and add a bias: ``y = x @ weight.T + bias``.

    Parameters
    ----------
    x : array (..., in)
        Half precision is summed in float32.
    weight : array (out, in)
    bias : array (out,), optional

    Returns
    -------
    y : array (..., out)
    ctx : LinearContext
        Keeps references to `x` and `weight`.

    Raises
    ------
    ShapeError, DtypeError, BackendError
        For arguments that do not fit together.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.linear(xpcnn.asarray([[1.0, 2.0]]), xpcnn.asarray([[3.0, 4.0]]))
    >>> y
    array([[11.]])
    """
    backend = common_backend("linear", x=x, weight=weight, bias=bias)
    check_rank("linear", "weight", weight.shape, 2, "(out, in)")
    features, inputs = weight.shape
    if x.ndim < 1 or x.shape[-1] != inputs:
        raise ShapeError(
            f"linear: x has {x.shape[-1] if x.ndim else 'no'} features (shape {tuple(x.shape)}) "
            f"but weight expects {inputs} (shape {tuple(weight.shape)}); images are flattened by nn.Flatten"
        )
    check_shapes("linear", f"weight {tuple(weight.shape)}", (features,), bias=bias)
    xp = backend.xp
    y = matmul(_rows(backend, x), xp.matrix_transpose(upcast(backend, weight)))
    if bias is not None:
        y += upcast(backend, bias)  # y is fresh
    y = xp.reshape(xp.astype(y, x.dtype, copy=False), (*x.shape[:-1], features))
    return y, LinearContext(x, weight, bias is not None)


@linear.def_backward
def _linear_grad(
    ctx: LinearContext, dy: Array, *, need_dx: bool = True, need_dweight: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients for `linear`'s inputs.

    Parameters
    ----------
    ctx : LinearContext
    dy : array (..., out)
    need_dx, need_dweight : bool
        False spares that gradient's work; ``need_dweight=False`` leaves out the bias's too.

    Returns
    -------
    dx : array (..., in), or None
    dweight : array (out, in), or None
    dbias : array (out,), or None
    """
    backend = check_dy("linear.backward", dy, (*ctx.x.shape[:-1], ctx.weight.shape[0]), ctx.x)
    xp, dtype = backend.xp, dy.dtype
    rows = _rows(backend, dy)
    dx = dweight = dbias = None
    if need_dx:
        dx = xp.astype(matmul(rows, upcast(backend, ctx.weight)), dtype, copy=False)
        dx = xp.reshape(dx, tuple(ctx.x.shape))
    if need_dweight:
        dweight = matmul(xp.matrix_transpose(rows), _rows(backend, ctx.x))
        dweight = xp.astype(dweight, dtype, copy=False)
        if ctx.has_bias:
            dbias = xp.astype(xp.sum(rows, axis=0), dtype, copy=False)
    return dx, dweight, dbias


def _rows(backend: Backend, x: Array) -> Array:
    """Return x (..., features) as a matrix, in the dtype it is summed in."""
    x = upcast(backend, x)
    return x if x.ndim == 2 else backend.xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


class FlattenContext(NamedTuple):
    """The input, for its shape."""

    x: Array


@op
def flatten(x: Array) -> tuple[Array, FlattenContext]:
    """Join all axes but the first: (N, C, H, W) -> (N, C·H·W), in the logical order of the axes.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.ops.flatten(xpcnn.asarray([[[1.0, 2.0], [3.0, 4.0]]]))[0]
    array([[1., 2., 3., 4.]])
    """
    xp = common_backend("flatten", x=x).xp
    if x.ndim < 1:
        raise ShapeError("flatten: x must have at least one axis, got a 0-d array")
    return xp.reshape(x, (x.shape[0], math.prod(x.shape[1:]))), FlattenContext(x)


@flatten.def_backward
def _flatten_grad(ctx: FlattenContext, dy: Array) -> Array:
    """Return dx, in the shape of the input; of images, over channels-last memory."""
    shape = tuple(ctx.x.shape)
    backend = check_dy("flatten.backward", dy, (shape[0], math.prod(shape[1:])), ctx.x)
    dx = backend.xp.reshape(dy, shape)
    # Copied here, once: all layers before this one would else meet two layouts.
    return backend.xp.permute_dims(backend.channels_last(dx), (0, 3, 1, 2)) if dx.ndim == 4 else dx
