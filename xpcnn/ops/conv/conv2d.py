"""Two-dimensional convolution: check, plan, run, and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

from xpcnn.backend import Array, backend_of, primitive
from xpcnn.errors import ShapeError
from xpcnn.ops.conv import executor
from xpcnn.ops.conv.algorithm import check_name, requested
from xpcnn.ops.conv.executor import add_bias, add_bias_relu
from xpcnn.ops.conv.geometry import ConvGeometry, make_geometry
from xpcnn.ops.max_pool import PoolGeometry
from xpcnn.ops.op import cached, check_dy, common_backend, op, upcast

__all__ = ["Conv2dContext", "conv2d", "convolve", "sum_over_pixels"]


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
        ``"auto"``, or one of ``xpcnn.ops.algorithm_names()``; see docs/convolution.md.

    Returns
    -------
    y : array (N, K, OH, OW)
        ``OH = (H + top + bottom − dilation·(kh − 1) − 1) // stride + 1``; the dtype of `x`.
    ctx : Conv2dContext

    Raises
    ------
    ShapeError, ArgumentError, DtypeError, BackendError, AlgorithmError
        For arguments that do not fit together; for an algorithm that is unknown, or cannot do this.

    Examples
    --------
    >>> import xpcnn
    >>> x, edge = xpcnn.asarray([[[[1.0, 2.0, 3.0]]]]), xpcnn.asarray([[[[-1.0, 1.0]]]])
    >>> y, ctx = xpcnn.ops.conv2d(x, edge)
    >>> y
    array([[[[1., 1.]]]])
    """
    return convolve(add_bias, x, weight, bias, (stride, padding, dilation, groups), algorithm)


def convolve(
    add: Any,
    x: Array,
    weight: Array,
    bias: Array | None,
    options: tuple[Any, Any, Any, int],
    algorithm: Any,
    pool: tuple[Any, Any, Any, bool] | None = None,
) -> tuple[Array, Conv2dContext]:
    """Return (y, ctx) of `conv2d` with `add(y, bias)` for its bias; a `pool` takes maxima before that."""
    backend = common_backend("conv2d", x=x, weight=weight, bias=bias)
    geometry = cached(make_geometry, ("conv2d", tuple(x.shape), tuple(weight.shape)), *options)
    if bias is not None and tuple(bias.shape) != (geometry.k,):
        needed = f"bias must have shape ({geometry.k},) for weight {tuple(weight.shape)}"
        raise ShapeError(f"conv2d: {needed}, got {tuple(bias.shape)}")
    pooling = pool and PoolGeometry.of("max_pool2d", geometry.output_shape, *pool)
    epilogue = None if bias is None else executor.Epilogue(add, bias, pooling, add is add_bias_relu)
    if not isinstance(algorithm, str):
        check_name(algorithm)  # raises
    name = requested() if algorithm == "auto" else algorithm
    plan = executor.plan_for("forward", geometry, x.dtype, backend, name)
    y = executor.run(plan, x, weight, epilogue)
    return y, Conv2dContext(x, weight, bias is not None, geometry, name)


@conv2d.def_backward
def _conv2d_grad(
    ctx: Conv2dContext, dy: Array, *, need_dx: bool = True, need_dweight: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return (dx, dweight, dbias), the gradients of a loss, given its gradient `dy` (N, K, OH, OW) for y.

    ``need_dx=False`` and ``need_dweight=False`` spare that work, and give None; the latter leaves out the
    bias's too. `dbias` is None also where there was no bias.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.conv2d(xpcnn.asarray([[[[1.0, 2.0, 3.0]]]]), xpcnn.asarray([[[[-1.0, 1.0]]]]))
    >>> xpcnn.ops.conv2d.backward(ctx, y)
    (array([[[[-1.,  0.,  1.]]]]), array([[[[3., 5.]]]]), None)
    """
    check_dy("conv2d.backward", dy, ctx.geometry.output_shape, ctx.x)
    dx = dweight = dbias = None
    if need_dx:
        dx = executor.run_pass("grad_input", ctx.algorithm, dy, ctx.weight, ctx.geometry)
    if need_dweight:
        dweight = executor.run_pass("grad_weight", ctx.algorithm, ctx.x, dy, ctx.geometry)
        dbias = sum_over_pixels(dy) if ctx.has_bias else None
    return dx, dweight, dbias


@primitive
def sum_over_pixels(dy: Array) -> Array:
    """Return the sum of dy (N, K, OH, OW) for each channel: as a matrix product, several times faster."""
    backend = backend_of(dy)
    xp = backend.xp
    # One row a pixel.
    rows = xp.reshape(backend.channels_last(upcast(backend, dy)), (-1, dy.shape[1]))
    ones = xp.ones((1, rows.shape[0]), dtype=rows.dtype, device=backend.device)
    return xp.astype(xp.reshape(ones @ rows, (-1,)), dy.dtype, copy=False)
