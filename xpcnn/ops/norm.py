"""Batch normalisation, per channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of, primitive
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.op import check_dy, check_rank, check_shapes, common_backend, op, real, upcast

__all__ = ["BatchNormContext", "batch_norm"]


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


@op
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
        If the running statistics are missing outside training, or an option is out of range.

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
    passes, arrays = (batch_norm_train, batch_norm_inference), (weight, bias, running_mean, running_var)
    return run_batch_norm(*passes, x, *arrays, train=train, momentum=momentum, eps=eps)


def run_batch_norm(
    by_batch: Callable[..., Any],
    by_running: Callable[..., Any],
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
    """Check the arguments of `batch_norm`, and return what it does with another of its primitives."""
    parameters = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    common_backend("batch_norm", x=x, **{name: p for name, p in parameters.items() if p is not None})
    check_rank("batch_norm", "x", x.shape, 2, "(N, C, ...)")
    check_shapes("batch_norm", f"x of shape {tuple(x.shape)}, C={x.shape[1]}", (x.shape[1],), **parameters)
    momentum, eps = real("batch_norm: momentum", momentum, 0, 1), real("batch_norm: eps", eps, 0)
    count = _count(x)
    if train and count < 2:
        problem = "an empty batch" if count == 0 else "one value for each channel"
        raise ShapeError(
            f"batch_norm: cannot take statistics of {problem} (x shape {tuple(x.shape)}); "
            f"train on larger batches, leave out a last batch of one sample with drop_last=True, or use the "
            f"running statistics with train=False"
        )
    if not train and (running_mean is None or running_var is None):
        raise ArgumentError("batch_norm: running_mean and running_var are needed when train=False")
    given = (x, weight, bias, running_mean, running_var)
    if train:
        y, mean, inverse_std, running_mean, running_var = by_batch(*given, momentum, eps)
    else:
        y, mean, inverse_std = by_running(*given, eps)
    has_bias = bias is not None
    return y, BatchNormContext(x, weight, has_bias, mean, inverse_std, train, running_mean, running_var)


@batch_norm.def_backward
def _batch_norm_grad(ctx: BatchNormContext, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias); the latter two are None where the parameter was absent.

    While training, the gradient also flows through the batch's mean and variance; otherwise they are
    constants.
    """
    check_dy("batch_norm.backward", dy, ctx.x.shape, ctx.x)
    gradients = batch_norm_gradients(dy, ctx.x, ctx.weight, ctx.mean, ctx.inverse_std, ctx.train)
    return gradients_given(ctx, dy, *gradients)


def gradients_given(
    ctx: BatchNormContext, dy: Array, dx: Array, dweight: Array, dbias: Array
) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias) in the dtype of `dy`, and None for parameters that were absent."""
    astype = backend_of(dy).xp.astype
    of_weight = None if ctx.weight is None else astype(dweight, dy.dtype, copy=False)
    return dx, of_weight, astype(dbias, dy.dtype, copy=False) if ctx.has_bias else None


@primitive
def batch_norm_train(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Normalise by the batch's own statistics.

    Returns y, mean, inverse_std (both in the dtype that is summed in), and the new running statistics.
    """
    backend = backend_of(x)
    xp, axes, count = backend.xp, _axes(x), _count(x)
    wide_x = upcast(backend, x)
    mean = xp.mean(wide_x, axis=axes)
    centred = wide_x - per_channel(mean, x)
    var = xp.mean(centred * centred, axis=axes)
    new_mean = _blend(backend, running_mean, mean, momentum)
    new_var = _blend(backend, running_var, var * (count / (count - 1)), momentum)
    inverse_std = 1 / xp.sqrt(var + eps)
    return _scaled(backend, centred, inverse_std, weight, bias, x), mean, inverse_std, new_mean, new_var


@primitive
def batch_norm_inference(
    x: Array, weight: Array | None, bias: Array | None, running_mean: Array, running_var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise by the running statistics. Returns y, mean, inverse_std."""
    backend = backend_of(x)
    mean, var = upcast(backend, running_mean), upcast(backend, running_var)
    centred = upcast(backend, x) - per_channel(mean, x)
    inverse_std = 1 / backend.xp.sqrt(var + eps)
    return _scaled(backend, centred, inverse_std, weight, bias, x), mean, inverse_std


@primitive
def batch_norm_gradients(
    dy: Array, x: Array, weight: Array | None, mean: Array, inverse_std: Array, train: bool
) -> tuple[Array, Array, Array]:
    """Return dx in the dtype of `dy`, and dweight and dbias in the dtype that is summed in."""
    backend = backend_of(dy)
    xp, axes = backend.xp, _axes(x)
    wide_dy = upcast(backend, dy)
    normalised = (upcast(backend, x) - per_channel(mean, x)) * per_channel(inverse_std, x)
    sum_dy = xp.sum(wide_dy, axis=axes)
    sum_dy_normalised = xp.sum(wide_dy * normalised, axis=axes)
    scale = inverse_std if weight is None else inverse_std * upcast(backend, weight)
    if train:
        count = _count(x)
        slope = per_channel(sum_dy_normalised / count, x)
        wide_dy = wide_dy - normalised * slope - per_channel(sum_dy / count, x)
    dx = xp.astype(wide_dy * per_channel(scale, x), dy.dtype, copy=False)
    return dx, sum_dy_normalised, sum_dy


def _scaled(
    backend: Backend, centred: Array, inverse_std: Array, weight: Array | None, bias: Array | None, x: Array
) -> Array:
    scale = inverse_std if weight is None else inverse_std * upcast(backend, weight)
    y = centred * per_channel(scale, x)
    if bias is not None:
        y += per_channel(bias, x)  # y is fresh
    return backend.xp.astype(y, x.dtype, copy=False)


def _axes(x: Array) -> tuple[int, ...]:
    """Return every axis but the channels'."""
    return (0, *range(2, x.ndim))


def _count(x: Array) -> int:
    """Return the number of values of each channel."""
    return math.prod(x.shape[axis] for axis in _axes(x))


def per_channel(values: Array, x: Array) -> Array:
    """Return C values, in the dtype to sum in, in the shape that lines up with the channels of `x`."""
    backend = backend_of(values)
    return backend.xp.reshape(upcast(backend, values), (1, -1) + (1,) * (x.ndim - 2))


def _blend(backend: Backend, old: Array | None, new: Array, momentum: float) -> Array | None:
    if old is None:
        return None
    blended = (1 - momentum) * upcast(backend, old) + momentum * new
    return backend.xp.astype(blended, old.dtype, copy=False)
