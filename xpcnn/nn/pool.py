"""Pooling layers."""

from __future__ import annotations

from typing import Any, ClassVar

from xpcnn import ops
from xpcnn.backend import Array, Key, native
from xpcnn.errors import ShapeError
from xpcnn.nn.init import constant, floating
from xpcnn.nn.layer import ReceptiveField, Stateless
from xpcnn.nn.parameter import Gradients, Parameter
from xpcnn.ops.max_pool import PoolGeometry
from xpcnn.ops.op import check_dy, common_backend, flag, pair, plain, require_array, upcast, whole

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d", "ScaledAvgPool2d"]


class _Pool2d(Stateless):
    """What both pooling layers with a window share."""

    options: ClassVar[tuple[str, ...]] = ("kernel_size", "stride", "padding", "ceil_mode")

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False
    ) -> None:
        name = type(self).__name__
        self.kernel_size = pair(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)
        self.ceil_mode = flag(f"{name}: ceil_mode", ceil_mode)
        # Options that are impossible for the smallest image, as large as the window, are so for all.
        PoolGeometry.of(
            name, (1, 1, *self.kernel_size), self.kernel_size, self.stride, self.padding, ceil_mode
        )

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        return before and before.after(self.kernel_size, self.stride)


class MaxPool2d(_Pool2d):
    """The maximum of each window; see `xpcnn.ops.max_pool2d`."""

    op = ops.max_pool2d
    batch_independent = True


class AvgPool2d(_Pool2d):
    """The average of each window; see `xpcnn.ops.avg_pool2d`."""

    op = ops.avg_pool2d
    options = (*_Pool2d.options, "count_include_pad")
    batch_independent = True

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = flag("AvgPool2d: count_include_pad", count_include_pad)


class ScaledAvgPool2d(AvgPool2d):
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
        super().__init__(kernel_size, stride)
        shape = (whole("ScaledAvgPool2d: channels", channels, 1),)
        dtype = floating("ScaledAvgPool2d", dtype)
        self.weight = Parameter(constant(1.0, shape, dtype))
        self.bias = Parameter(constant(0.0, shape, dtype))

    @property
    def channels(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        averages, ctx = super().forward(x)
        weight, bias = native(self.weight.data), native(self.bias.data)
        xp = common_backend("ScaledAvgPool2d", x=averages, weight=weight, bias=bias).xp
        if averages.shape[1] != self.channels:
            raise ShapeError(
                f"ScaledAvgPool2d: x has C={averages.shape[1]} channels (shape {tuple(x.shape)}) but the "
                f"layer was built for {self.channels}"
            )
        y = averages * xp.reshape(weight, (-1, 1, 1)) + xp.reshape(bias, (-1, 1, 1))
        return y, (ctx, averages, weight)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        pool_ctx, averages, weight = ctx
        dy = require_array("ScaledAvgPool2d", "dy", dy)
        backend = check_dy("ScaledAvgPool2d", dy, averages.shape, averages)
        xp, wide_dy = backend.xp, upcast(backend, dy)
        if grads is not None:
            sums = [xp.sum(part, axis=(0, 2, 3)) for part in (wide_dy * upcast(backend, averages), wide_dy)]
            dweight, dbias = (xp.astype(total, dy.dtype, copy=False) for total in sums)
            self.accumulate(grads, weight=dweight, bias=dbias)
        return super().backward(pool_ctx, dy * xp.reshape(weight, (-1, 1, 1)), need_dx=need_dx)


class AdaptiveAvgPool2d(Stateless):
    """The average of OH × OW regions that cover the image; see `xpcnn.ops.adaptive_avg_pool2d`."""

    op = ops.adaptive_avg_pool2d
    options = ("output_size",)
    batch_independent = True

    def __init__(self, output_size: Any) -> None:
        self.output_size = plain(output_size)
        wanted = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * 2
        pair("AdaptiveAvgPool2d", "output_size", [1 if size is None else size for size in wanted], 1)

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        return None
