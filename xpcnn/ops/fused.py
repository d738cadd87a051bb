"""Pairs and triples of ops in fewer passes over memory, with the bits of the ops one after the other.

Engine, not definition: nobody calls these but `xpcnn.nn.fusion`.
"""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, primitive
from xpcnn.errors import ArgumentError
from xpcnn.ops.activation import OutputContext, relu_array, relu_grad
from xpcnn.ops.conv.conv2d import Conv2dContext, convolve
from xpcnn.ops.conv.executor import add_bias_relu
from xpcnn.ops.max_pool import MaxPool2dContext, max_pool2d
from xpcnn.ops.norm import (
    BatchNormContext,
    batch_norm_gradients,
    batch_norm_inference,
    batch_norm_train,
    gradients_given,
    run_batch_norm,
)
from xpcnn.ops.op import check_dy, native_arrays, op

__all__ = ["batch_norm_relu", "conv2d_relu", "conv2d_relu_max_pool2d", "relu_max_pool2d_gradient"]


@native_arrays
def conv2d_relu(
    x: Array, weight: Array, bias: Array, **options: Any
) -> tuple[Array, tuple[Conv2dContext, OutputContext]]:
    """Return ``relu(conv2d(…))`` to the bit, with bias and ReLU applied while each tile is in the cache.

    The options and errors are those of `conv2d`; without a bias, ArgumentError. The contexts are those of the
    two ops, and so are their backward passes.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.ops import fused
    >>> x, weight = xpcnn.asarray([[[[1.0, 2.0]]]]), xpcnn.asarray([[[[3.0]]]])
    >>> y, (conv, relu) = fused.conv2d_relu(x, weight, xpcnn.asarray([-4.0]))
    >>> y
    array([[[[0., 2.]]]])
    """
    _require_bias("conv2d_relu", bias)
    y, ctx = convolve(add_bias_relu, x, weight, bias, *_conv_options(**options))
    return y, (ctx, OutputContext(y))


@native_arrays
def conv2d_relu_max_pool2d(
    x: Array,
    weight: Array,
    bias: Array,
    kernel_size: Any,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    ceil_mode: bool = False,
    **options: Any,
) -> Array:
    """Return ``max_pool2d(relu(conv2d(…)))``, for inference: there is no context, and no backward pass.

    What the convolution gives is pooled while it is in the cache, and never whole in memory. Bias and ReLU
    come after that, on fewer numbers. The values are the same, as neither changes which of two numbers is the
    larger, rounding included. (Unless the bias is infinite.)

    Parameters
    ----------
    x, weight, bias
        As for `conv2d`.
    kernel_size, pool_stride, pool_padding, ceil_mode
        As for `max_pool2d`.
    **options
        Those of `conv2d`.

    Returns
    -------
    y : array (N, K, PH, PW)
        Of the dtype of `x`.

    Raises
    ------
    ShapeError, ArgumentError, DtypeError, BackendError, AlgorithmError
        As `conv2d` and `max_pool2d`; ArgumentError without a bias, too.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.ops import fused
    >>> x, weight = xpcnn.asarray([[[[1.0, 2.0], [5.0, 3.0]]]]), xpcnn.asarray([[[[3.0]]]])
    >>> fused.conv2d_relu_max_pool2d(x, weight, xpcnn.asarray([-4.0]), (1, 2))
    array([[[[ 2.],
             [11.]]]])
    """
    _require_bias("conv2d_relu_max_pool2d", bias)
    pool = (kernel_size, pool_stride, pool_padding, ceil_mode)
    return convolve(add_bias_relu, x, weight, bias, *_conv_options(**options), pool)[0]


def _conv_options(
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, algorithm: str = "auto"
) -> tuple[tuple[Any, Any, Any, int], str]:
    return (stride, padding, dilation, groups), algorithm


def _require_bias(op: str, bias: Array | None) -> None:
    if bias is None:
        raise ArgumentError(f"{op}: a bias (K,) is needed; without one use conv2d, and relu on its result")


@op
def batch_norm_relu(
    x: Array, *arrays: Array | None, **options: Any
) -> tuple[Array, tuple[BatchNormContext, OutputContext]]:
    """Return ``relu(batch_norm(…))`` to the bit.

    Parameters and errors are those of `xpcnn.ops.batch_norm`: a caller knows that one alone.

    Returns
    -------
    y : array, the shape of `x`
    ctx : (BatchNormContext, OutputContext)
        The contexts of the two ops.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.ops import fused
    >>> y, (norm, relu) = fused.batch_norm_relu(xpcnn.asarray([[1.0], [3.0]]), train=True, eps=0.0)
    >>> y
    array([[0.],
           [1.]])
    """
    y, ctx = run_batch_norm(batch_norm_relu_train, batch_norm_relu_inference, x, *arrays, **options)
    return y, (ctx, OutputContext(y))


@batch_norm_relu.def_backward
def _batch_norm_relu_grad(
    ctx: tuple[BatchNormContext, OutputContext], dy: Array
) -> tuple[Array, Array | None, Array | None]:
    """Return (dx, dweight, dbias), to the bit those of `relu.backward` and then `batch_norm.backward`."""
    norm, (y,) = ctx
    check_dy("relu.backward", dy, y.shape, y)
    gradients = batch_norm_relu_gradients(dy, norm.x, norm.weight, norm.mean, norm.inverse_std, norm.train, y)
    return gradients_given(norm, dy, *gradients)


@primitive
def batch_norm_relu_train(x: Array, *given: Any) -> Any:
    """Return what `batch_norm_train` does, with a ReLU behind y."""
    y, *statistics = batch_norm_train(x, *given)
    return relu_array(y), *statistics


@primitive
def batch_norm_relu_inference(x: Array, *given: Any) -> Any:
    """Return what `batch_norm_inference` does, with a ReLU behind y."""
    y, *statistics = batch_norm_inference(x, *given)
    return relu_array(y), *statistics


@primitive
def batch_norm_relu_gradients(dy: Array, *given: Any) -> Any:
    """Return what `batch_norm_gradients` does, where the last argument, the ReLU's output, is positive."""
    *others, y = given
    return batch_norm_gradients(relu_grad(dy, y), *others)


@native_arrays
def relu_max_pool2d_gradient(ctx: tuple[OutputContext, MaxPool2dContext], dy: Array) -> Any:
    """Return dx, to the bit that of `max_pool2d.backward` and then `relu.backward`, given both contexts.

    A maximum is positive where the ReLU let it through: the mask of the pooled image, a fraction of the size,
    gives the same gradients.
    """
    _, pool = ctx
    check_dy("max_pool2d.backward", dy, pool.y.shape, pool.y)
    return max_pool2d.backward(pool, relu_grad(dy, pool.y))
