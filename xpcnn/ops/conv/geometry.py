"""All size arithmetic of a convolution, done and checked in one place."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.op import cached, check_rank, in_words, pair, require_possible

__all__ = ["ConvGeometry", "check_shapes", "make_geometry"]


Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def _derived() -> Any:
    return field(init=False, repr=False, compare=False)


@dataclass(frozen=True)
class ConvGeometry:
    """The sizes of one convolution: cross-correlation of x (N, C, H, W) with weight (K, C/groups, kh, kw).

    Attributes
    ----------
    input_shape : (N, C, H, W)
    weight_shape : (K, C/groups, kh, kw)
    stride, dilation : (height, width)
    padding : (top, bottom, left, right)
        Four numbers, whatever the user gave.
    groups : int
    n, c, h, w, k : int
        Images, input channels, rows and columns, output channels.
    kernel : (kh, kw)
    oh, ow, output_size, output_shape
        Rows and columns of the output, rounded down where the stride does not divide; both; (N, K, OH, OW).
    padded_size : (height, width)
        With the padding on all sides.
    macs : int
        Multiply-accumulates of the forward pass.
    key : tuple
        The six arguments, which caches hash without a call of Python.

    Examples
    --------
    >>> g = ConvGeometry.of((8, 3, 32, 32), (16, 3, 3, 3), stride=2, padding=1)
    >>> g.output_shape, g.padding
    ((8, 16, 16, 16), (1, 1, 1, 1))
    """

    input_shape: tuple[int, int, int, int]
    weight_shape: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    n: int = _derived()
    c: int = _derived()
    h: int = _derived()
    w: int = _derived()
    k: int = _derived()
    kernel: tuple[int, int] = _derived()
    oh: int = _derived()
    ow: int = _derived()
    output_size: tuple[int, int] = _derived()
    output_shape: tuple[int, int, int, int] = _derived()
    padded_size: tuple[int, int] = _derived()
    macs: int = _derived()
    key: tuple[Any, ...] = _derived()

    def __post_init__(self) -> None:
        n, c, h, w = self.input_shape
        k, channels, kh, kw = self.weight_shape
        (sh, sw), (dh, dw), (top, bottom, left, right) = self.stride, self.dilation, self.padding
        height, width = h + top + bottom, w + left + right
        oh, ow = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
        key = self.input_shape, self.weight_shape, self.stride, self.padding, self.dilation, self.groups
        vars(self).update(n=n, c=c, h=h, w=w, k=k, kernel=(kh, kw), oh=oh, ow=ow, output_size=(oh, ow))
        vars(self).update(output_shape=(n, k, oh, ow), padded_size=(height, width))
        vars(self).update(macs=n * k * oh * ow * channels * kh * kw, key=key)

    @classmethod
    def of(
        cls,
        x_shape: Shape,
        weight_shape: Shape,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        op: str = "conv2d",
    ) -> ConvGeometry:
        """Return the geometry of the user's arguments, or raise an error that names `op`."""
        fixed = op, tuple(x_shape), tuple(weight_shape)
        found: ConvGeometry = cached(make_geometry, fixed, stride, padding, dilation, groups)
        return found

    def with_batch(self, n: int) -> ConvGeometry:
        """Return this geometry for `n` images."""
        return replace(self, input_shape=(n, *self.input_shape[1:]))

    def one_group(self) -> ConvGeometry:
        """Return the geometry of a single group of channels."""
        if self.groups == 1:
            return self
        _, c, h, w = self.input_shape
        k, channels, kh, kw = self.weight_shape
        return replace(
            self,
            input_shape=(self.n, c // self.groups, h, w),
            weight_shape=(k // self.groups, channels, kh, kw),
            groups=1,
        )

    def with_rows(self, start: int, stop: int) -> tuple[ConvGeometry, slice]:
        """Return the geometry of output rows start:stop, and the slice of input rows they see."""
        top, _, left, right = self.padding
        first = start * self.stride[0] - top
        last = (stop - 1) * self.stride[0] - top + self.dilation[0] * (self.kernel[0] - 1) + 1
        low, high = min(max(first, 0), self.h), max(min(last, self.h), 0)
        high = max(high, low)
        geometry = replace(
            self,
            input_shape=(self.n, self.c, high - low, self.w),
            padding=(low - first, last - high, left, right),
        )
        return geometry, slice(low, high)


@functools.lru_cache(maxsize=4096)
def make_geometry(
    op: str, x_shape: Shape, weight_shape: Shape, stride: Any, padding: Any, dilation: Any, groups: int
) -> ConvGeometry:
    """Return the geometry of the user's arguments, once they are Python's numbers; see `ConvGeometry.of`."""
    check_shapes(op, x_shape, weight_shape, "(K, C/groups, kh, kw)", groups)
    n, c, h, w = x_shape
    k, channels, kh, kw = weight_shape
    if c % groups or k % groups:
        raise ShapeError(
            f"{op}: groups={groups} must divide the input channels C={c} (x shape {x_shape}) "
            f"and the output channels K={k} (weight shape {weight_shape})"
        )
    if c // groups != channels:
        per_group = f" in each of {groups} groups" if groups > 1 else ""
        raise ShapeError(
            f"{op}: x has C={c} channels (shape {x_shape}) but weight expects C={channels}{per_group} "
            f"(shape {weight_shape})"
        )
    strides = pair(op, "stride", stride, 1)
    dilations = pair(op, "dilation", dilation, 1)
    span = (dilations[0] * (kh - 1) + 1, dilations[1] * (kw - 1) + 1)
    paddings = _padding(op, padding, strides, span)
    geometry = ConvGeometry((n, c, h, w), (k, channels, kh, kw), strides, paddings, dilations, groups)
    if min(geometry.output_size) < 1:
        dilated = f" (dilated to {span[0]}x{span[1]})" if dilations != (1, 1) else ""
        raise ShapeError(
            f"{op}: kernel {kh}x{kw}{dilated} is larger than the padded input "
            f"{geometry.padded_size[0]}x{geometry.padded_size[1]} (x shape {x_shape}, "
            f"weight shape {weight_shape}, padding {padding!r}); use a smaller kernel or more padding"
        )
    require_possible(op, "the padded x", (n, c, *geometry.padded_size))
    require_possible(op, "the result", geometry.output_shape)
    return geometry


def check_shapes(op: str, x_shape: Shape, weight_shape: Shape, layout: str, groups: Any) -> None:
    """Require images and a weight of this layout, of four axes each, and a number of groups."""
    for name, shape, axes in (("x", x_shape, "(N, C, H, W)"), ("weight", weight_shape, layout)):
        check_rank(op, name, shape, 4, axes)
    if type(groups) is not int or groups < 1:
        raise ArgumentError(f"{op}: groups must be a positive int, got {in_words(groups)}")
    if min(weight_shape[0], *weight_shape[2:]) < 1:
        raise ShapeError(f"{op}: weight has an empty axis (shape {weight_shape})")


def _padding(op: str, padding: Any, stride: Pair, span: Pair) -> Padding:
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ArgumentError(
                f"{op}: padding 'same' needs stride 1, got {stride}; give the padding as numbers"
            )
        # An even kernel needs an odd total: the extra row and column go to the bottom and right.
        rows, columns = span[0] - 1, span[1] - 1
        return (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    if isinstance(padding, str):
        raise ArgumentError(
            f"{op}: padding must be an int, a pair, 'same' or 'valid', got {in_words(padding)}"
        )
    height, width = pair(op, "padding", padding, 0)
    return (height, height, width, width)
