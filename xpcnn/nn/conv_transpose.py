"""The transposed convolution layer."""

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
from xpcnn.ops.conv.conv_transpose2d import check_output_padding
from xpcnn.ops.op import flag, pair

__all__ = ["ConvTranspose2d"]


class ConvTranspose2d(Layer):
    """Spread images (N, C, H, W) over larger ones; see `xpcnn.ops.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (height, width)
    stride, dilation : int or (height, width)
    padding : int or (height, width)
        How much is cut off on each side.
    output_padding : int or (height, width)
        Rows and columns more at the bottom and right.
    groups : int
    bias : bool
        Whether to add one number to each output channel; it starts at 0.
    weight_init : "he", "xavier", float or Initializer
        With ``in_channels/groups · kernel/stride`` taken as the fan-in: that many values meet in an output.
    seed : int or NumPy generator, optional
        What the initial weights are drawn from; fresh entropy if not given.
    dtype : str

    Attributes
    ----------
    weight : Parameter (in_channels, out_channels/groups, kh, kw)
    bias : Parameter (out_channels,), or None

    Examples
    --------
    >>> import xpcnn
    >>> layer = xpcnn.nn.ConvTranspose2d(1, 2, 2, stride=2, dtype="float64", seed=0)
    >>> layer(xpcnn.asarray([[[[1.0, 2.0], [3.0, 4.0]]]])).shape
    (1, 2, 4, 4)
    """

    per_sample = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        weight_init: Initializer | str | float = "he",
        seed: Any = None,
        dtype: Any = "float32",
    ) -> None:
        name = "ConvTranspose2d"
        groups, in_channels, out_channels = grouped(
            name, "groups", groups, in_channels=in_channels, out_channels=out_channels
        )
        kernel = pair(name, "kernel_size", kernel_size, 1)
        self.stride = pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)
        self.output_padding = pair(name, "output_padding", output_padding, 0)
        self.dilation = pair(name, "dilation", dilation, 1)
        self.groups = groups
        check_output_padding(name, self.output_padding, self.stride, self.dilation)
        dtype, bias = floating(name, dtype), flag(f"{name}: bias", bias)
        shape = (in_channels, out_channels // groups, *kernel)
        overlap = math.prod(max(k / s, 1.0) for k, s in zip(kernel, self.stride, strict=True))
        fan_in, fan_out = round(in_channels // groups * overlap), out_channels * math.prod(kernel)
        self.weight = Parameter(draw(weight_init, seed, shape, fan_in, fan_out), dtype)
        self.bias = Parameter(constant(0.0, (out_channels,), dtype)) if bias else None

    @property
    def in_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def out_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.conv_transpose2d(
            x,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
            dilation=self.dilation,
        )

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        need_dweight = grads is not None and self.trainable(self.weight, self.bias)
        dx, dweight, dbias = ops.conv_transpose2d.backward(
            ctx, dy, need_dx=need_dx, need_dweight=need_dweight
        )
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        if field is None or self.stride != (1, 1):
            return None  # neighbours are then less than a pixel apart, and do not see equally many
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return field.through(kernel, (1, 1), self.dilation)

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        # Each value of x goes into so many products; what padding cuts off is computed all the same.
        return math.prod(input_shape) * math.prod(self.weight.shape[1:])

    def extra_repr(self) -> str:
        c, k, *kernel = self.weight.shape
        shown = f"{c}, {k * self.groups}, kernel_size={tuple(kernel)}"
        defaults: dict[str, Any] = {
            "stride": (1, 1),
            "padding": (0, 0),
            "output_padding": (0, 0),
            "groups": 1,
            "dilation": (1, 1),
        }
        shown += "".join(
            f", {name}={getattr(self, name)!r}"
            for name, value in defaults.items()
            if getattr(self, name) != value
        )
        return shown + ("" if self.bias is not None else ", bias=False")
