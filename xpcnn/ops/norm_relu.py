"""Batch normalisation with a ReLU behind it, in fewer passes over memory than the two ops make."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, primitive
from xpcnn.ops.activation import OutputContext, kept_where_positive, rectified
from xpcnn.ops.checks import check_dy, real
from xpcnn.ops.norm import (
    BatchNormContext,
    batch_norm_by_batch,
    batch_norm_by_running,
    batch_norm_gradients,
    check_batch_norm,
    of_parameters,
)
from xpcnn.ops.op import op

__all__ = ["batch_norm_relu"]


@op
def batch_norm_relu(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    train: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, tuple[BatchNormContext, OutputContext]]:
    """Return ``relu(batch_norm(…))`` to the bit.

    Parameters and errors are those of `xpcnn.ops.batch_norm`.

    Returns
    -------
    y : array, the shape of `x`
    ctx : (BatchNormContext, OutputContext)
        The contexts of the two ops.

    Examples
    --------
    >>> import xpcnn
    >>> y, (norm, relu) = xpcnn.ops.batch_norm_relu(xpcnn.asarray([[1.0], [3.0]]), train=True, eps=0.0)
    >>> y
    array([[0.],
           [1.]])
    """
    check_batch_norm(x, weight, bias, running_mean, running_var, train)
    momentum, eps = real("batch_norm_relu: momentum", momentum, 0, 1), real("batch_norm_relu: eps", eps, 0)
    if train:
        y, mean, inverse_std, running_mean, running_var = batch_norm_relu_by_batch(
            x, weight, bias, running_mean, running_var, momentum, eps
        )
    else:
        y, mean, inverse_std = batch_norm_relu_by_running(x, weight, bias, running_mean, running_var, eps)
    norm = BatchNormContext(x, weight, bias is not None, mean, inverse_std, train, running_mean, running_var)
    return y, (norm, OutputContext(y))


@batch_norm_relu.def_backward
def _batch_norm_relu_grad(
    ctx: tuple[BatchNormContext, OutputContext], dy: Array
) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias), to the bit those of `relu.backward` and then `batch_norm.backward`."""
    norm, (y,) = ctx
    check_dy("batch_norm_relu.backward", dy, y.shape, y)
    gradients = batch_norm_relu_gradients(dy, norm.x, norm.weight, norm.mean, norm.inverse_std, norm.train, y)
    return of_parameters(norm, dy, *gradients)


@primitive
def batch_norm_relu_by_batch(x: Array, *given: Any) -> Any:
    """Return what `batch_norm_by_batch` does, with a ReLU behind y."""
    y, *statistics = batch_norm_by_batch(x, *given)
    return rectified(y), *statistics


@primitive
def batch_norm_relu_by_running(x: Array, *given: Any) -> Any:
    """Return what `batch_norm_by_running` does, with a ReLU behind y."""
    y, *statistics = batch_norm_by_running(x, *given)
    return rectified(y), *statistics


@primitive
def batch_norm_relu_gradients(
    dy: Array, x: Array, weight: Array | None, mean: Array, inverse_std: Array, train: bool, y: Array
) -> tuple[Array, Array, Array]:
    """Return what `batch_norm_gradients` does, where the output y of the ReLU is positive."""
    return batch_norm_gradients(kept_where_positive(dy, y), x, weight, mean, inverse_std, train)
