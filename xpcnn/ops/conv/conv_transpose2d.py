"""Transposed convolution: the gradient of a convolution for its input, used as a forward pass."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from xpcnn.backend import Array
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.ops.conv import executor
from xpcnn.ops.conv._layout import pad
from xpcnn.ops.conv.algorithm import requested
from xpcnn.ops.conv.conv2d import sum_over_pixels
from xpcnn.ops.conv.geometry import ConvGeometry, Shape, check_shapes
from xpcnn.ops.op import cached, check_dy, common_backend, op, pair, require_possible

__all__ = ["ConvTranspose2dContext", "conv_transpose2d"]


class ConvTranspose2dContext(NamedTuple):
    """What the backward pass needs: references to the inputs, and the convolution this one mirrors."""

    x: Array
    weight: Array
    has_bias: bool
    mirrored: ConvGeometry
    beyond: tuple[int, int]
    algorithm: str


@op
def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> tuple[Array, ConvTranspose2dContext]:
    """Spread every pixel of `x` over the output, weighted by the filters, and add what overlaps.

    It is the adjoint of `conv2d` with the same weight and options: what that sums up to go from y to x, this
    spreads out to go from x to y. The algorithms are those of `conv2d`, chosen in the same way.

    Parameters
    ----------
    x : array (N, C, H, W)
        Any floating dtype; half precision is summed in float32.
    weight : array (C, K/groups, kh, kw)
    bias : array (K,), optional
    stride, dilation : int or (height, width)
    padding : int or (height, width)
        How much is cut off on each side: the padding of the convolution that is mirrored.
    output_padding : int or (height, width)
        Rows and columns more at the bottom and right, below the stride or the dilation: a convolution with a
        stride has the same output size for several input sizes, and this chooses among them.
    groups : int
        Channel groups that are treated separately.

    Returns
    -------
    y : array (N, K, OH, OW)
        ``OH = (H − 1)·stride − 2·padding + dilation·(kh − 1) + output_padding + 1``; the dtype of `x`.
    ctx : ConvTranspose2dContext
        Keeps references to `x` and `weight`; no copies.

    Raises
    ------
    ShapeError, ArgumentError, DtypeError, BackendError
        For arguments that do not fit together.
    AlgorithmError
        If the algorithm that `xpcnn.conv_algorithm` asks for cannot do this, with its reason.

    References
    ----------
    Zeiler, Krishnan, Taylor and Fergus, "Deconvolutional networks", 2010; Dumoulin and Visin, "A guide to
    convolution arithmetic for deep learning", 2016.

    Examples
    --------
    >>> import xpcnn
    >>> x = xpcnn.asarray([[[[1.0, 2.0]]]])
    >>> y, ctx = xpcnn.ops.conv_transpose2d(x, xpcnn.asarray([[[[1.0, 10.0, 100.0]]]]), stride=(1, 2))
    >>> y
    array([[[[  1.,  10., 102.,  20., 200.]]]])
    """
    backend = common_backend("conv_transpose2d", x=x, weight=weight, bias=bias)
    shapes = tuple(x.shape), tuple(weight.shape)
    mirrored, beyond = cached(_geometry, shapes, stride, padding, output_padding, groups, dilation)
    k = mirrored.c
    if bias is not None and tuple(bias.shape) != (k,):
        raise ShapeError(
            f"conv_transpose2d: bias must have shape ({k},) for weight {tuple(weight.shape)} in {groups} "
            f"groups, got {tuple(bias.shape)}"
        )
    name = requested()
    plan = executor.plan_for("grad_input", mirrored, x.dtype, backend, name, op="conv_transpose2d")

    epilogue = None if bias is None else executor.Epilogue(executor.add_bias, bias)
    y = executor.run(plan, x, weight, None if max(beyond) else epilogue)
    if max(beyond):
        y = pad(y, (0, beyond[0], 0, beyond[1]))  # where nothing reaches
        y = y if epilogue is None else epilogue(y, slice(0, k))
    return y, ConvTranspose2dContext(x, weight, bias is not None, mirrored, beyond, name)


@conv_transpose2d.def_backward
def _conv_transpose2d_grad(
    ctx: ConvTranspose2dContext, dy: Array, *, need_dx: bool = True, need_dweight: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of a loss for `conv_transpose2d`'s inputs, given its gradient for the output.

    Parameters
    ----------
    ctx : ConvTranspose2dContext
    dy : array (N, K, OH, OW)
    need_dx, need_dweight : bool
        False spares that gradient's work; ``need_dweight=False`` leaves out the bias's too.

    Returns
    -------
    dx : array (N, C, H, W), or None
        The convolution of `dy` with the weight.
    dweight : array (C, K/groups, kh, kw), or None
    dbias : array (K,), or None
        None also where there was no bias.

    Examples
    --------
    >>> import xpcnn
    >>> x, weight = xpcnn.asarray([[[[1.0, 2.0]]]]), xpcnn.asarray([[[[1.0, 10.0]]]])
    >>> y, ctx = xpcnn.ops.conv_transpose2d(x, weight)
    >>> dx, dweight, dbias = xpcnn.ops.conv_transpose2d.backward(ctx, xpcnn.asarray([[[[1.0, 0.0, 1.0]]]]))
    >>> dx, dweight, dbias
    (array([[[[ 1., 10.]]]]), array([[[[1., 2.]]]]), None)
    """
    geometry, op = ctx.mirrored, "conv_transpose2d"
    n, k, h, w = geometry.input_shape
    check_dy(f"{op}.backward", dy, (n, k, h + ctx.beyond[0], w + ctx.beyond[1]), ctx.x)
    reached = dy[:, :, :h, :w]
    dx = dweight = dbias = None
    if need_dx:
        dx = executor.run_pass("forward", ctx.algorithm, reached, ctx.weight, geometry, op)
    if need_dweight:
        dweight = executor.run_pass("grad_weight", ctx.algorithm, reached, ctx.x, geometry, op)
        dbias = sum_over_pixels(dy) if ctx.has_bias else None
    return dx, dweight, dbias


@functools.lru_cache(maxsize=1024)
def _geometry(
    x_shape: Shape, weight_shape: Shape, stride: Any, padding: Any, extra: Any, groups: Any, dilation: Any
) -> tuple[ConvGeometry, tuple[int, int]]:
    """Return the convolution from y to x, and the rows and columns of y that it never looks at."""
    op = "conv_transpose2d"
    check_shapes(op, x_shape, weight_shape, "(C, K/groups, kh, kw)", groups)
    c = x_shape[1]
    if c != weight_shape[0]:
        raise ShapeError(
            f"{op}: x has C={c} channels (shape {x_shape}) but weight expects C={weight_shape[0]} "
            f"(shape {weight_shape})"
        )
    if c % groups:
        raise ShapeError(f"{op}: groups={groups} must divide the input channels C={c} (x shape {x_shape})")
    if min(*weight_shape, *x_shape[2:]) < 1:
        raise ShapeError(
            f"{op}: x has no pixels, or weight an empty axis (x {x_shape}, weight {weight_shape})"
        )
    strides, dilations = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    paddings, extras = pair(op, "padding", padding, 0), pair(op, "output_padding", extra, 0)
    check_output_padding(op, extras, strides, dilations)
    axes = zip(x_shape[2:], weight_shape[2:], strides, dilations, strict=True)
    # All rows (and columns) that the pixels of x reach, of which y is a part.
    spans = [(size - 1) * s + d * (kernel - 1) + 1 for size, kernel, s, d in axes]
    h, w = (span - 2 * p + e for span, p, e in zip(spans, paddings, extras, strict=True))
    if min(h, w) < 1:
        raise ShapeError(
            f"{op}: padding {paddings} cuts off everything: y would be {h}x{w} "
            f"(x shape {x_shape}, weight shape {weight_shape}, stride {strides}, output_padding {extras}); "
            f"use less padding"
        )
    n, k = x_shape[0], weight_shape[1] * groups
    require_possible(op, "the result", (n, k, *spans))
    before = [min(p, span) for p, span in zip(paddings, spans, strict=True)]
    after = [max(min(span - p, p - e), 0) for span, p, e in zip(spans, paddings, extras, strict=True)]
    reached = [span - b - a for span, b, a in zip(spans, before, after, strict=True)]
    mirrored = ConvGeometry(
        (n, k, reached[0], reached[1]),
        (weight_shape[0], weight_shape[1], weight_shape[2], weight_shape[3]),
        strides,
        (before[0], after[0], before[1], after[1]),
        dilations,
        groups,
    )
    return mirrored, (h - reached[0], w - reached[1])


def check_output_padding(
    op: str, extras: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> None:
    """Require that no row or column is added that a pixel of x might as well have reached."""
    if any(e >= max(s, d) for e, s, d in zip(extras, strides, dilations, strict=True)):
        raise ArgumentError(
            f"{op}: output_padding {extras} must be below the stride {strides} or the dilation {dilations}; "
            f"to add more, pad y"
        )
