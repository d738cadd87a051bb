"""Two-dimensional convolution: checks, the choice of algorithm, the bias, and the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn.backend import Array
from xpcnn.errors import ShapeError
from xpcnn.ops.checks import check_dy, common_backend, widened
from xpcnn.ops.conv import tiling
from xpcnn.ops.conv._layout import add_bias, narrowed, sum_over_pixels
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import requested
from xpcnn.ops.op import op
from xpcnn.ops.pool_windows import PoolGeometry, max_pool_windows

__all__ = ["Conv2dContext", "conv2d", "convolve"]


class Conv2dContext(NamedTuple):
    """What the backward pass needs: references to the inputs, never the columns."""

    x: Array
    weight: Array
    has_bias: bool
    geometry: ConvGeometry
    algorithm: str


@op
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
        ``"auto"``, or one of ``xpcnn.ops.algorithm_names()``. On a device ``"winograd"`` and ``"fft"`` spread
        NaN and infinity over a tile or an image, and ``"auto"`` leaves them out unless it measures
        (`autotune`); on a CPU nothing spreads.

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
    options = (stride, padding, dilation, groups)
    return convolve(add_bias, x, weight, bias, options, algorithm)


def convolve(
    ending: Callable[[Array, Array], Array],
    x: Array,
    weight: Array,
    bias: Array | None,
    options: tuple[Any, Any, Any, int],
    algorithm: str,
    pool: tuple[Any, Any, Any, bool] | None = None,
) -> tuple[Array, Conv2dContext]:
    """Return a convolution, or its maxima if there is a `pool`; `ending` brings in the bias."""
    backend = common_backend("conv2d", x=x, weight=weight, bias=bias)
    geometry = ConvGeometry.of(x.shape, weight.shape, *options)
    if bias is not None and tuple(bias.shape) != (geometry.k,):
        raise ShapeError(
            f"conv2d: bias must have shape ({geometry.k},) for weight {tuple(weight.shape)}, "
            f"got {tuple(bias.shape)}"
        )
    pooling = None if pool is None else PoolGeometry.of_shape("max_pool2d", geometry.output_shape, *pool)
    size = None if pooling is None else pooling.output_shape[2:]
    name = requested(algorithm)
    chosen = tiling.resolve(name, geometry, x.dtype, backend, "forward")
    wide_x, wide_weight = tiling.operands(chosen, x, weight)
    finish = None
    if bias is not None:
        wide_bias = narrowed(backend, bias, wide_x.dtype)

        def finish(y: Array, channels: slice) -> Array:
            if pooling is not None:
                y = max_pool_windows(y, *pooling.windows, pooling.output_shape[2:])
            return ending(y, wide_bias[channels])

    y = tiling.forward(chosen, wide_x, wide_weight, geometry, finish, size)
    return narrowed(backend, y, x.dtype), Conv2dContext(x, weight, bias is not None, geometry, name)


@conv2d.def_backward
def _conv2d_grad(
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
    >>> dx, dweight, dbias = xpcnn.ops.conv2d.backward(ctx, y)
    >>> dx, dweight, dbias
    (array([[[[-1.,  0.,  1.]]]]), array([[[[3., 5.]]]]), None)
    """
    geometry = ctx.geometry
    backend = check_dy("conv2d.backward", dy, geometry.output_shape, ctx.x)
    dx = dweight = dbias = None
    if need_dx:
        chosen = tiling.resolve(ctx.algorithm, geometry, dy.dtype, backend, "grad_input")
        dx = tiling.grad_input(chosen, *tiling.operands(chosen, dy, ctx.weight), geometry)
        dx = narrowed(backend, dx, dy.dtype)
    if need_dweight:
        chosen = tiling.resolve(ctx.algorithm, geometry, dy.dtype, backend, "grad_weight")
        dweight = tiling.grad_weight(chosen, *tiling.operands(chosen, ctx.x, dy), geometry)
        dweight = narrowed(backend, dweight, dy.dtype)
        if ctx.has_bias:
            dbias = narrowed(backend, sum_over_pixels(backend, widened(backend, dy)), dy.dtype)
    return dx, dweight, dbias
