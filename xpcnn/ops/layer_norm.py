"""Normalisation within one sample: over its last axes, or over groups of its channels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from xpcnn.backend import Array, Backend
from xpcnn.errors import ShapeError
from xpcnn.ops.op import check_dy, check_rank, check_shapes, common_backend, op, real, sizes, upcast, whole

__all__ = ["LayerNormContext", "group_norm", "layer_norm"]


class LayerNormContext(NamedTuple):
    """References to the input and the weight, and a mean and 1/std for each normalised part.

    `axes` are normalised over; along the axes `shared`, an entry of the parameters is.
    """

    x: Array
    weight: Array | None
    has_bias: bool
    mean: Array
    inverse_std: Array
    axes: tuple[int, ...]
    shared: tuple[int, ...]


@op
def layer_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Array, LayerNormContext]:
    """Normalise the last axes of each sample to mean 0 and variance 1, then scale and shift each entry.

    ``y = (x − mean) / sqrt(var + eps) · weight + bias``, with the biased variance. There are no running
    statistics: training and inference are the same.

    Parameters
    ----------
    x : array (..., *normalized_shape)
        Half precision is summed in float32.
    normalized_shape : int or sequence of int
        The sizes of the axes to normalise over.
    weight, bias : array (*normalized_shape), optional
    eps : float

    Returns
    -------
    y : array, the shape of `x`
    ctx : LayerNormContext
        Keeps references to `x` and `weight`, and two numbers for each part that is normalised.

    Raises
    ------
    ShapeError
        If `normalized_shape` is not the end of the shape of `x`, or `weight` or `bias` has another.
    ArgumentError
        If `normalized_shape` is empty or holds anything but positive integers.

    References
    ----------
    Ba, Kiros and Hinton, "Layer normalization", 2016.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.layer_norm(xpcnn.asarray([[1.0, 3.0], [0.0, 20.0]]), 2, eps=0.0)
    >>> y
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    backend = _common_backend("layer_norm", x, weight, bias)
    eps = real("layer_norm: eps", eps, 0)
    shape = sizes("layer_norm", "normalized_shape", normalized_shape)
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ShapeError(
            f"layer_norm: x has shape {tuple(x.shape)}, which does not end in normalized_shape {shape}"
        )
    check_shapes("layer_norm", f"x of shape {tuple(x.shape)}", shape, weight=weight, bias=bias)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    y, mean, inverse_std = _normalise(backend, x, weight, bias, axes, eps)
    return y, LayerNormContext(x, weight, bias is not None, mean, inverse_std, axes, tuple(range(axes[0])))


@layer_norm.def_backward
def _layer_norm_grad(ctx: LayerNormContext, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias); the latter two are None where the parameter was absent."""
    backend = check_dy("layer_norm.backward", dy, ctx.x.shape, ctx.x)
    return _gradients(backend, ctx, dy)


@op
def group_norm(
    x: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, LayerNormContext]:
    """Normalise each group of neighbouring channels of each sample, then scale and shift each channel.

    ``y = (x − mean) / sqrt(var + eps) · weight + bias``, with the biased variance over a group's channels and
    pixels. One group normalises the whole sample; C groups are instance normalisation.

    Parameters
    ----------
    x : array (N, C) or (N, C, ...)
        Half precision is summed in float32.
    num_groups : int
        Must divide C.
    weight, bias : array (C,), optional
    eps : float

    Returns
    -------
    y : array, the shape of `x`
    ctx : LayerNormContext
        Keeps references to `x` and `weight`, in groups, and two numbers for each group of each sample.

    Raises
    ------
    ShapeError
        If the groups do not divide the channels, a parameter has not one entry for each channel, or a group
        is empty.
    ArgumentError
        If `num_groups` is not a positive integer.

    References
    ----------
    Wu and He, "Group normalization", 2018.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.group_norm(xpcnn.asarray([[1.0, 3.0, 0.0, 20.0]]), 2, eps=0.0)
    >>> y
    array([[-1.,  1., -1.,  1.]])
    """
    backend = _common_backend("group_norm", x, weight, bias)
    num_groups, eps = whole("group_norm: num_groups", num_groups, 1), real("group_norm: eps", eps, 0)
    check_rank("group_norm", "x", x.shape, 2, "(N, C, ...)")
    if x.shape[1] % num_groups:
        raise ShapeError(
            f"group_norm: num_groups={num_groups} must divide the C={x.shape[1]} channels of x "
            f"(shape {tuple(x.shape)})"
        )
    if 0 in x.shape[1:]:
        raise ShapeError(f"group_norm: x has no values to normalise (shape {tuple(x.shape)})")
    check_shapes("group_norm", f"x of shape {tuple(x.shape)}", (x.shape[1],), weight=weight, bias=bias)
    xp, rest = backend.xp, x.shape[2:]
    grouped = xp.reshape(x, (x.shape[0], num_groups, x.shape[1] // num_groups, *rest))
    factor, shift = (
        None if p is None else xp.reshape(p, (num_groups, -1) + (1,) * len(rest)) for p in (weight, bias)
    )
    axes = tuple(range(2, x.ndim + 1))
    y, mean, inverse_std = _normalise(backend, grouped, factor, shift, axes, eps)
    ctx = LayerNormContext(grouped, factor, bias is not None, mean, inverse_std, axes, (0, *axes[1:]))
    return xp.reshape(y, tuple(x.shape)), ctx


@group_norm.def_backward
def _group_norm_grad(ctx: LayerNormContext, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias); the latter two are None where the parameter was absent."""
    n, groups, channels, *rest = ctx.x.shape
    backend = check_dy("group_norm.backward", dy, (n, groups * channels, *rest), ctx.x)
    reshape = backend.xp.reshape
    dx, *others = _gradients(backend, ctx, reshape(dy, tuple(ctx.x.shape)))
    dweight, dbias = (None if d is None else reshape(d, (-1,)) for d in others)
    return reshape(dx, tuple(dy.shape)), dweight, dbias


# -- shared by both --------------------------------------------------------------------


def _normalise(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:
    """Return y, mean and 1/std over these axes; weight and bias line up with the last axes of x."""
    mean_of = functools.partial(backend.xp.mean, axis=axes, keepdims=True)
    wide = upcast(backend, x)
    mean = mean_of(wide)
    centred = wide - mean
    inverse_std = 1 / backend.xp.sqrt(mean_of(centred * centred) + eps)
    y = centred * inverse_std
    # y is fresh, so scaling and shifting it in place is safe
    if weight is not None:
        y *= upcast(backend, weight)
    if bias is not None:
        y += upcast(backend, bias)
    return backend.xp.astype(y, x.dtype, copy=False), mean, inverse_std


def _gradients(
    backend: Backend, ctx: LayerNormContext, dy: Array
) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias)."""
    xp = backend.xp
    mean_of = functools.partial(xp.mean, axis=ctx.axes, keepdims=True)
    wide_dy = upcast(backend, dy)
    normalised = (upcast(backend, ctx.x) - ctx.mean) * ctx.inverse_std
    products = wide_dy * normalised
    dweight = dbias = None
    if ctx.has_bias:
        dbias = xp.astype(xp.sum(wide_dy, axis=ctx.shared), dy.dtype, copy=False)
    if ctx.weight is not None:
        dweight = xp.astype(xp.sum(products, axis=ctx.shared), dy.dtype, copy=False)
        weight = upcast(backend, ctx.weight)
        wide_dy, products = wide_dy * weight, products * weight
    dx = (wide_dy - normalised * mean_of(products) - mean_of(wide_dy)) * ctx.inverse_std
    return xp.astype(dx, dy.dtype, copy=False), dweight, dbias


def _common_backend(op: str, x: Array, weight: Array | None, bias: Array | None) -> Backend:
    given = {name: array for name, array in (("weight", weight), ("bias", bias)) if array is not None}
    return common_backend(op, x=x, **given)
