"""Batch normalisation, per channel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.checks import check_dy, common_backend, widened

__all__ = ["BatchNormContext", "batch_norm", "batch_norm_backward"]


class BatchNormContext(NamedTuple):
    """What backward needs, and the running statistics as they stand after this batch."""

    x: Array
    weight: Array | None
    has_bias: bool
    mean: Array
    inverse_std: Array
    train: bool
    running_mean: Array | None
    running_var: Array | None


def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    train: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, BatchNormContext]:
    """Normalise each channel to mean 0 and variance 1, then scale and shift it.

    ``y = (x − mean) / sqrt(var + eps) · weight + bias``. While training, mean and (biased) variance are the
    batch's; otherwise they are the running ones. Nothing is written in place: the new running statistics are
    handed out in the context, ``new = (1 − momentum)·old + momentum·batch``, the variance unbiased.

    Parameters
    ----------
    x : array (N, C) or (N, C, ...)
        Half precision is summed in float32.
    weight, bias : array (C,), optional
    running_mean, running_var : array (C,), optional
        Needed unless `train`.
    train : bool
    momentum : float
        The weight of the new batch, as in PyTorch.
    eps : float

    Returns
    -------
    y : array, the shape of `x`
    ctx : BatchNormContext
        Keeps references to `x` and `weight`, and arrays of C entries. `ctx.running_mean` and
        `ctx.running_var` are the updated statistics.

    Raises
    ------
    ShapeError
        If a parameter has not one entry for each channel, or a training batch has fewer than two
        values for each channel.
    ArgumentError
        If the running statistics are missing outside training.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.batch_norm(xpcnn.asarray([[1.0], [3.0]]), train=True, eps=0.0)
    >>> y
    array([[-1.],
           [ 1.]])
    """
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    given = {name: array for name, array in given.items() if array is not None}
    backend = common_backend("batch_norm", x=x, **given)
    _check_shapes(x, given)
    xp = backend.xp
    axes = _axes(x)
    wide_x = widened(backend, x)
    if train:
        count = math.prod(x.shape[axis] for axis in axes)
        if count < 2:
            problem = "an empty batch" if count == 0 else "one value for each channel"
            raise ShapeError(
                f"batch_norm: cannot take statistics of {problem} (x shape {tuple(x.shape)}); "
                f"train on larger batches, or use the running statistics with train=False"
            )
        mean = xp.mean(wide_x, axis=axes)
        centred = wide_x - _per_channel(xp, mean, x)
        var = xp.mean(centred * centred, axis=axes)
        new_mean = _blend(backend, running_mean, mean, momentum)
        new_var = _blend(backend, running_var, var * (count / (count - 1)), momentum)
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm: running_mean and running_var are needed when train=False")
        mean, var = widened(backend, running_mean), widened(backend, running_var)
        centred = wide_x - _per_channel(xp, mean, x)
        new_mean, new_var = running_mean, running_var
    inverse_std = 1 / xp.sqrt(var + eps)
    scale = inverse_std if weight is None else inverse_std * widened(backend, weight)
    y = centred * _per_channel(xp, scale, x)
    if bias is not None:
        y += _per_channel(xp, widened(backend, bias), x)  # y is fresh
    ctx = BatchNormContext(x, weight, bias is not None, mean, inverse_std, train, new_mean, new_var)
    return xp.astype(y, x.dtype, copy=False), ctx


def batch_norm_backward(ctx: BatchNormContext, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias); the latter two are None where the parameter was absent.

    While training, the gradient also flows through the batch's mean and variance; otherwise they are
    constants.
    """
    x = ctx.x
    backend = check_dy("batch_norm_backward", dy, x.shape, x)
    xp, axes, dtype = backend.xp, _axes(x), dy.dtype
    wide_dy = widened(backend, dy)
    normalised = (widened(backend, x) - _per_channel(xp, ctx.mean, x)) * _per_channel(xp, ctx.inverse_std, x)
    sum_dy = xp.sum(wide_dy, axis=axes)
    sum_dy_normalised = xp.sum(wide_dy * normalised, axis=axes)
    scale = ctx.inverse_std if ctx.weight is None else ctx.inverse_std * widened(backend, ctx.weight)
    if ctx.train:
        count = math.prod(x.shape[axis] for axis in axes)
        slope = _per_channel(xp, sum_dy_normalised / count, x)
        wide_dy = wide_dy - normalised * slope - _per_channel(xp, sum_dy / count, x)
    dx = xp.astype(wide_dy * _per_channel(xp, scale, x), dtype, copy=False)
    dweight = None if ctx.weight is None else xp.astype(sum_dy_normalised, dtype, copy=False)
    dbias = xp.astype(sum_dy, dtype, copy=False) if ctx.has_bias else None
    return dx, dweight, dbias


def _axes(x: Array) -> tuple[int, ...]:
    """Return every axis but the channels'."""
    return (0, *range(2, x.ndim))


def _per_channel(xp: Any, values: Array, x: Array) -> Array:
    """Return C values in the shape that lines up with the channels of `x`."""
    return xp.reshape(values, (1, -1) + (1,) * (x.ndim - 2))


def _blend(backend: Backend, old: Array | None, new: Array, momentum: float) -> Array | None:
    if old is None:
        return None
    blended = (1 - momentum) * widened(backend, old) + momentum * new
    return backend.xp.astype(blended, old.dtype, copy=False)


def _check_shapes(x: Array, parameters: dict[str, Array]) -> None:
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: x must have axes (N, C, ...), got shape {tuple(x.shape)}")
    for name, parameter in parameters.items():
        if tuple(parameter.shape) != (x.shape[1],):
            raise ShapeError(
                f"batch_norm: x has C={x.shape[1]} channels (shape {tuple(x.shape)}) but {name} has shape "
                f"{tuple(parameter.shape)}; it must be ({x.shape[1]},)"
            )
