"""LeNet-5's subsampling: average pooling with a trainable scale and shift for each channel."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key, native
from xpcnn.errors import ShapeError
from xpcnn.nn.init import constant, floating
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.nn.parameter import Gradients, Parameter
from xpcnn.ops.op import check_dy, common_backend, pair, require_array, upcast, whole

__all__ = ["ScaledAvgPool2d"]


class ScaledAvgPool2d(Layer):
    """``y[c] = weight[c] · average of each window + bias[c]``.

    LeNet-5 sums a window where this averages it: its coefficient is ``weight / (kh·kw)``. The squashing
    function that follows there is a layer of its own here.

    Parameters
    ----------
    channels : int
        C.
    kernel_size, stride : int or (height, width)
        The stride defaults to the kernel size.
    dtype : str

    Attributes
    ----------
    weight : Parameter (channels,)
        Starts at 1.
    bias : Parameter (channels,)
        Starts at 0.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Examples
    --------
    >>> import xpcnn
    >>> layer = xpcnn.nn.ScaledAvgPool2d(1, 2, dtype="float64")
    >>> layer(xpcnn.asarray([[[[1.0, 2.0], [4.0, 3.0]]]]))
    array([[[[2.5]]]])
    """

    batch_independent = True

    def __init__(
        self, channels: int, kernel_size: Any, stride: Any = None, *, dtype: Any = "float32"
    ) -> None:
        channels = whole("ScaledAvgPool2d: channels", channels, 1)
        dtype = floating("ScaledAvgPool2d", dtype)
        self.kernel_size = pair("ScaledAvgPool2d", "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair("ScaledAvgPool2d", "stride", stride, 1)
        self.weight = Parameter(constant(1.0, (channels,), dtype))
        self.bias = Parameter(constant(0.0, (channels,), dtype))

    @property
    def channels(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        weight, bias = native(self.weight.data), native(self.bias.data)
        x = require_array("ScaledAvgPool2d", "x", x)
        backend = common_backend("ScaledAvgPool2d", x=x, weight=weight, bias=bias)
        averages, ctx = ops.avg_pool2d(x, self.kernel_size, self.stride)
        if x.shape[1] != weight.shape[0]:
            raise ShapeError(
                f"ScaledAvgPool2d: x has C={x.shape[1]} channels (shape {tuple(x.shape)}) but the layer was "
                f"built for {weight.shape[0]}"
            )
        y = averages * backend.xp.reshape(weight, (-1, 1, 1)) + backend.xp.reshape(bias, (-1, 1, 1))
        return y, (ctx, averages, weight)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        pool_ctx, averages, weight = ctx
        dy = require_array("ScaledAvgPool2d", "dy", dy)
        backend = check_dy("ScaledAvgPool2d", dy, averages.shape, averages)
        xp = backend.xp
        if grads is not None and self.trainable(self.weight, self.bias):
            wide_dy = upcast(backend, dy)
            dweight = xp.sum(wide_dy * upcast(backend, averages), axis=(0, 2, 3))
            dbias = xp.sum(wide_dy, axis=(0, 2, 3))
            self.accumulate(
                grads,
                weight=xp.astype(dweight, dy.dtype, copy=False),
                bias=xp.astype(dbias, dy.dtype, copy=False),
            )
        if not need_dx:
            return None
        return ops.avg_pool2d.backward(pool_ctx, dy * xp.reshape(weight, (-1, 1, 1)))

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        return before and before.after(self.kernel_size, self.stride)
