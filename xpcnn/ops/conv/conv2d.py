"""Two-dimensional convolution: checks, the choice of algorithm, the bias, and the backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

from xpcnn.backend import Array
from xpcnn.errors import ShapeError
from xpcnn.ops.checks import check_dy, common_backend, widened
from xpcnn.ops.conv import tiling
from xpcnn.ops.conv._layout import narrowed, sum_over_pixels
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import requested

__all__ = ["Conv2dContext", "conv2d", "conv2d_backward"]


class Conv2dContext(NamedTuple):
    """What the backward pass needs: references to the inputs, never the columns."""

    x: Array
    weight: Array
    has_bias: bool
    geometry: ConvGeometry
    algorithm: str


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> tuple[Array, Conv2dContext]:
    """Convolve images with a bank of filters (cross-correlation: the filters are not flipped).

    Parameters
    ----------
    x : array (N, C, H, W)
        Any floating dtype; half precision is summed in float32.
    weight : array (K, C/groups, kh, kw)
    bias : array (K,), optional
    stride, dilation : int or (height, width)
    padding : int, (height, width), "valid" or "same"
        Zeros on each side; ``"same"`` keeps the size and needs stride 1.
    groups : int
        Channel groups that are convolved separately; ``groups=C`` is a depthwise convolution.
    algorithm : str
        ``"auto"``, or one of ``xpcnn.ops.algorithm_names()``.

    Returns
    -------
    y : array (N, K, OH, OW)
        ``OH = (H + top + bottom − dilation·(kh − 1) − 1) // stride + 1``; the dtype of `x`. A view over
        channels-last memory where the library has strides.
    ctx : Conv2dContext
        Keeps references to `x` and `weight`; no copies.

    Raises
    ------
    ShapeError, ArgumentError, DtypeError, BackendError
        For arguments that do not fit together.
    AlgorithmError
        For an unknown algorithm, or one that cannot do this, with its reason.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Examples
    --------
    >>> import xpcnn
    >>> x = xpcnn.asarray([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    >>> edge = xpcnn.asarray([[[[-1.0, 1.0]]]])
    >>> y, ctx = xpcnn.ops.conv2d(x, edge)
    >>> y
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    backend = common_backend("conv2d", x=x, weight=weight, bias=bias)
    geometry = ConvGeometry.of(x.shape, weight.shape, stride, padding, dilation, groups)
    if bias is not None and tuple(bias.shape) != (geometry.k,):
        raise ShapeError(
            f"conv2d: bias must have shape ({geometry.k},) for weight {tuple(weight.shape)}, "
            f"got {tuple(bias.shape)}"
        )
    name = requested(algorithm)
    wide_x, wide_weight = widened(backend, x), widened(backend, weight)
    chosen = tiling.resolve(name, geometry, wide_x.dtype, backend)
    y = tiling.forward(chosen, wide_x, wide_weight, geometry)
    if bias is not None:
        # y is fresh, so adding in place is safe
        y += backend.xp.reshape(widened(backend, bias), (1, geometry.k, 1, 1))
    return narrowed(backend, y, x.dtype), Conv2dContext(x, weight, bias is not None, geometry, name)


def conv2d_backward(
    ctx: Conv2dContext, dy: Array, *, need_dx: bool = True, need_dweight: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of a loss for `conv2d`'s inputs, given its gradient for the output.

    Parameters
    ----------
    ctx : Conv2dContext
    dy : array (N, K, OH, OW)
    need_dx, need_dweight : bool
        False spares that gradient's work; ``need_dweight=False`` leaves out the bias's too.

    Returns
    -------
    dx : array (N, C, H, W), or None
    dweight : array (K, C/groups, kh, kw), or None
    dbias : array (K,), or None
        None also where there was no bias.

    Examples
    --------
    >>> import xpcnn
    >>> x = xpcnn.asarray([[[[1.0, 2.0, 3.0]]]])
    >>> y, ctx = xpcnn.ops.conv2d(x, xpcnn.asarray([[[[-1.0, 1.0]]]]))
    >>> dx, dweight, dbias = xpcnn.ops.conv2d_backward(ctx, y)
    >>> dx, dweight, dbias
    (array([[[[-1.,  0.,  1.]]]]), array([[[[3., 5.]]]]), None)
    """
    geometry = ctx.geometry
    backend = check_dy("conv2d_backward", dy, geometry.output_shape, ctx.x)
    x, weight, wide_dy = (widened(backend, array) for array in (ctx.x, ctx.weight, dy))
    chosen = tiling.resolve(ctx.algorithm, geometry, x.dtype, backend)
    dx = dweight = dbias = None
    if need_dx:
        dx = narrowed(backend, tiling.grad_input(chosen, wide_dy, weight, geometry), dy.dtype)
    if need_dweight:
        dweight = narrowed(backend, tiling.grad_weight(chosen, x, wide_dy, geometry), dy.dtype)
        if ctx.has_bias:
            dbias = narrowed(backend, sum_over_pixels(backend, wide_dy), dy.dtype)
    return dx, dweight, dbias
