"""The convolution layer."""

from __future__ import annotations

import math
from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.init import Initializer, constant, draw
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.nn.options import floating, grouped
from xpcnn.nn.parameter import Parameter
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops import ConvGeometry
from xpcnn.ops.conv.algorithm import check_name
from xpcnn.ops.op import flag, pair, plain

__all__ = ["Conv2d"]


class Conv2d(Layer):
    """Convolution of images (N, C, H, W) with `out_channels` filters; see `xpcnn.ops.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (height, width)
    stride, dilation : int or (height, width)
    padding : int, (height, width), "valid" or "same"
    groups : int
    bias : bool
        Whether to add one number to each output channel; it starts at 0.
    weight_init : "he", "xavier", float or Initializer
    seed : int or NumPy generator, optional
        What the initial weights are drawn from; fresh entropy if not given.
    dtype : str
    algorithm : str
        How to compute it; ``"auto"`` chooses.

    Attributes
    ----------
    weight : Parameter (out_channels, in_channels/groups, kh, kw)
    bias : Parameter (out_channels,), or None

    Examples
    --------
    >>> import xpcnn
    >>> layer = xpcnn.nn.Conv2d(1, 2, 3, padding="same", dtype="float64", seed=0)
    >>> layer(xpcnn.asarray([[[[1.0, 2.0], [3.0, 4.0]]]])).shape
    (1, 2, 2, 2)
    """

    per_sample = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        weight_init: Initializer | str | float = "he",
        seed: Any = None,
        dtype: Any = "float32",
        algorithm: str = "auto",
    ) -> None:
        groups, in_channels, out_channels = grouped(
            "Conv2d", "groups", groups, in_channels=in_channels, out_channels=out_channels
        )
        kernel = pair("Conv2d", "kernel_size", kernel_size, 1)
        dilations = pair("Conv2d", "dilation", dilation, 1)
        shape = (out_channels, in_channels // groups, *kernel)
        # Options that are impossible for the smallest image, as large as the kernel, are so for all.
        smallest = (1, in_channels, *(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)))
        ConvGeometry.of(smallest, shape, stride, padding, dilation, groups, op="Conv2d")
        check_name(algorithm, "Conv2d")
        dtype, bias = floating("Conv2d", dtype), flag("Conv2d: bias", bias)
        fan_in, fan_out = math.prod(shape[1:]), out_channels * math.prod(kernel)
        self.weight = Parameter(draw(weight_init, seed, shape, fan_in, fan_out), dtype)
        self.bias = Parameter(constant(0.0, (out_channels,), dtype)) if bias else None
        self.stride, self.padding, self.dilation, self.groups = plain((stride, padding, dilation, groups))
        self.algorithm = algorithm

    @property
    def in_channels(self) -> int:
        channels: int = self.weight.shape[1] * self.groups
        return channels

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.conv2d(x, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Return what `xpcnn.ops.conv2d` takes beside x."""
        return {
            "weight": self.weight.data,
            "bias": None if self.bias is None else self.bias.data,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "algorithm": self.algorithm,
        }

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        need_dweight = grads is not None and self.trainable(self.weight, self.bias)
        dx, dweight, dbias = ops.conv2d.backward(ctx, dy, need_dx=need_dx, need_dweight=need_dweight)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        if field is None:
            return None
        kernel = (self.weight.shape[2], self.weight.shape[3])
        stride = pair("Conv2d", "stride", self.stride, 1)
        return field.through(kernel, stride, pair("Conv2d", "dilation", self.dilation, 1))

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * math.prod(self.weight.shape[1:])

    def extra_repr(self) -> str:
        k, c, *kernel = self.weight.shape
        shown = f"{c * self.groups}, {k}, kernel_size={tuple(kernel)}"
        defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "algorithm": "auto"}
        shown += "".join(
            f", {name}={getattr(self, name)!r}"
            for name, value in defaults.items()
            if getattr(self, name) != value
        )
        return shown + ("" if self.bias is not None else ", bias=False")
