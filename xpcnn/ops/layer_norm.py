"""Normalisation within one sample: over its last axes, or over groups of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend
from xpcnn.errors import ShapeError
from xpcnn.ops.op import check_dy, common_backend, op, real, sizes, upcast, whole

__all__ = ["GroupNormContext", "LayerNormContext", "group_norm", "layer_norm"]


class LayerNormContext(NamedTuple):
    """References to the input and the weight, and a mean and 1/std for each normalised part."""

    x: Array
    weight: Array | None
    has_bias: bool
    mean: Array
    inverse_std: Array
    axes: tuple[int, ...]


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
    given = _given(weight, bias)
    backend = common_backend("layer_norm", x=x, **given)
    eps = real("layer_norm: eps", eps, 0)
    shape = sizes("layer_norm", "normalized_shape", normalized_shape)
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ShapeError(
            f"layer_norm: x has shape {tuple(x.shape)}, which does not end in normalized_shape {shape}"
        )
    _check_parameters("layer_norm", x, given, shape)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    wide = upcast(backend, x)
    xp = backend.xp
    mean = xp.mean(wide, axis=axes, keepdims=True)
    centred = wide - mean
    inverse_std = 1 / xp.sqrt(xp.mean(centred * centred, axis=axes, keepdims=True) + eps)
    y = centred * inverse_std
    # y is fresh, so scaling and shifting it in place is safe
    if weight is not None:
        y *= upcast(backend, weight)
    if bias is not None:
        y += upcast(backend, bias)
    ctx = LayerNormContext(x, weight, bias is not None, mean, inverse_std, axes)
    return xp.astype(y, x.dtype, copy=False), ctx


@layer_norm.def_backward
def _layer_norm_grad(ctx: LayerNormContext, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias); the latter two are None where the parameter was absent."""
    backend = check_dy("layer_norm.backward", dy, ctx.x.shape, ctx.x)
    xp = backend.xp
    wide_dy = upcast(backend, dy)
    normalised = (upcast(backend, ctx.x) - ctx.mean) * ctx.inverse_std
    products = wide_dy * normalised
    samples = tuple(range(ctx.axes[0]))
    dweight = dbias = None
    if ctx.has_bias:
        dbias = _sum_over(backend, wide_dy, samples, dy.dtype)
    if ctx.weight is not None:
        dweight = _sum_over(backend, products, samples, dy.dtype)
        weight = upcast(backend, ctx.weight)
        wide_dy, products = wide_dy * weight, products * weight
    shift = xp.mean(wide_dy, axis=ctx.axes, keepdims=True)
    slope = xp.mean(products, axis=ctx.axes, keepdims=True)
    dx = (wide_dy - normalised * slope - shift) * ctx.inverse_std
    return xp.astype(dx, dy.dtype, copy=False), dweight, dbias


class GroupNormContext(NamedTuple):
    """References to the input and the weight, and a mean and 1/std for each channel of each sample."""

    x: Array
    weight: Array | None
    has_bias: bool
    num_groups: int
    mean: Array
    inverse_std: Array


@op
def group_norm(
    x: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, GroupNormContext]:
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
    ctx : GroupNormContext
        Keeps references to `x` and `weight`, and two numbers for each channel of each sample.

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
    given = _given(weight, bias)
    backend = common_backend("group_norm", x=x, **given)
    num_groups, eps = whole("group_norm: num_groups", num_groups, 1), real("group_norm: eps", eps, 0)
    if x.ndim < 2:
        raise ShapeError(f"group_norm: x must have axes (N, C, ...), got shape {tuple(x.shape)}")
    if x.shape[1] % num_groups:
        raise ShapeError(
            f"group_norm: num_groups={num_groups} must divide the C={x.shape[1]} channels of x "
            f"(shape {tuple(x.shape)})"
        )
    if 0 in x.shape[1:]:
        raise ShapeError(f"group_norm: x has no values to normalise (shape {tuple(x.shape)})")
    _check_parameters("group_norm", x, given, (x.shape[1],))
    wide = upcast(backend, x)
    mean = _group_mean(backend, wide, num_groups)
    centred = wide - mean
    inverse_std = 1 / backend.xp.sqrt(_group_mean(backend, centred * centred, num_groups) + eps)
    y = centred * inverse_std
    # y is fresh, so scaling and shifting it in place is safe
    if weight is not None:
        y *= _per_channel(backend, weight, x)
    if bias is not None:
        y += _per_channel(backend, bias, x)
    ctx = GroupNormContext(x, weight, bias is not None, num_groups, mean, inverse_std)
    return backend.xp.astype(y, x.dtype, copy=False), ctx


@group_norm.def_backward
def _group_norm_grad(ctx: GroupNormContext, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias); the latter two are None where the parameter was absent."""
    x, num_groups = ctx.x, ctx.num_groups
    backend = check_dy("group_norm.backward", dy, x.shape, x)
    xp = backend.xp
    wide_dy = upcast(backend, dy)
    normalised = (upcast(backend, x) - ctx.mean) * ctx.inverse_std
    products = wide_dy * normalised
    others = (0, *range(2, x.ndim))  # every axis but the channels'
    dweight = dbias = None
    if ctx.has_bias:
        dbias = _sum_over(backend, wide_dy, others, dy.dtype)
    if ctx.weight is not None:
        dweight = _sum_over(backend, products, others, dy.dtype)
        weight = _per_channel(backend, ctx.weight, x)
        wide_dy, products = wide_dy * weight, products * weight
    shift = _group_mean(backend, wide_dy, num_groups)
    slope = _group_mean(backend, products, num_groups)
    dx = (wide_dy - normalised * slope - shift) * ctx.inverse_std
    return xp.astype(dx, dy.dtype, copy=False), dweight, dbias


def _group_mean(backend: Backend, x: Array, num_groups: int) -> Array:
    """Return the mean of each group of x (N, C, ...), at each of its channels: (N, C, 1, ...)."""
    xp = backend.xp
    n, c = x.shape[:2]
    pixels = tuple(range(2, x.ndim))
    # The pixels first: over channels-last memory that is much the faster order.
    means = xp.mean(x, axis=pixels, keepdims=True) if pixels else x
    grouped = xp.reshape(means, (n, num_groups, c // num_groups))
    mean = xp.mean(grouped, axis=2, keepdims=True)
    return xp.reshape(xp.broadcast_to(mean, grouped.shape), means.shape)


def _sum_over(backend: Backend, x: Array, axes: tuple[int, ...], dtype: Any) -> Array:
    return backend.xp.astype(backend.xp.sum(x, axis=axes), dtype, copy=False)


def _per_channel(backend: Backend, values: Array, x: Array) -> Array:
    """Return C values, upcast, in the shape that lines up with the channels of `x`."""
    return backend.xp.reshape(upcast(backend, values), (-1,) + (1,) * (x.ndim - 2))


def _given(weight: Array | None, bias: Array | None) -> dict[str, Array]:
    return {name: array for name, array in (("weight", weight), ("bias", bias)) if array is not None}


def _check_parameters(op: str, x: Array, given: dict[str, Array], shape: tuple[int, ...]) -> None:
    for name, parameter in given.items():
        if tuple(parameter.shape) != shape:
            raise ShapeError(
                f"{op}: {name} has shape {tuple(parameter.shape)}, but must have {shape} for x of shape "
                f"{tuple(x.shape)}"
            )
