"""The convolution layers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from xpcnn import ops
from xpcnn.nn.init import Initializer, grouped
from xpcnn.nn.layer import Weighted
from xpcnn.nn.receptive_field import ReceptiveField
from xpcnn.ops import ConvGeometry
from xpcnn.ops.conv.algorithm import check_name
from xpcnn.ops.conv.conv_transpose2d import check_output_padding
from xpcnn.ops.op import pair, plain

__all__ = ["Conv2d", "ConvTranspose2d"]


class _Conv(Weighted):
    options: ClassVar[tuple[str, ...]] = (*Weighted.options, "stride", "padding", "dilation", "groups")
    groups: int

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.weight.shape[2:]


class Conv2d(_Conv):
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

    op = ops.conv2d
    options = (*_Conv.options, "algorithm")
    batch_independent = True

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
        fans = math.prod(shape[1:]), out_channels * math.prod(kernel)
        self._draw(shape, fans, out_channels, bias, weight_init, seed, dtype)
        self.stride, self.padding, self.dilation, self.groups = plain((stride, padding, dilation, groups))
        self.algorithm = algorithm

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[1] * self.groups)

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        return before and before.after(self.kernel_size, self.stride, self.dilation)

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * math.prod(self.weight.shape[1:])


class ConvTranspose2d(_Conv):
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

    op = ops.conv_transpose2d
    options = (*_Conv.options, "output_padding")
    batch_independent = True

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
        self.groups, in_channels, out_channels = grouped(
            name, "groups", groups, in_channels=in_channels, out_channels=out_channels
        )
        kernel = pair(name, "kernel_size", kernel_size, 1)
        self.stride = pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)
        self.output_padding = pair(name, "output_padding", output_padding, 0)
        self.dilation = pair(name, "dilation", dilation, 1)
        check_output_padding(name, self.output_padding, self.stride, self.dilation)
        shape = (in_channels, out_channels // self.groups, *kernel)
        overlap = math.prod(max(k / s, 1.0) for k, s in zip(kernel, self.stride, strict=True))
        fans = round(in_channels // self.groups * overlap), out_channels * math.prod(kernel)
        self._draw(shape, fans, out_channels, bias, weight_init, seed, dtype)

    @property
    def in_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def out_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        if before is None or self.stride != (1, 1):
            return None  # neighbours are then less than a pixel apart, and do not see equally many
        return before.after(self.kernel_size, self.stride, self.dilation)

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        # Each value of x goes into so many products; what padding cuts off is computed all the same.
        return math.prod(input_shape) * math.prod(self.weight.shape[1:])
