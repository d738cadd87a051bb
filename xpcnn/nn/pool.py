"""Pooling layers."""

from __future__ import annotations

from typing import Any, ClassVar

from xpcnn import ops
from xpcnn.nn.layer import ReceptiveField, Stateless
from xpcnn.ops.max_pool import PoolGeometry
from xpcnn.ops.op import flag, pair, plain

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"]


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
