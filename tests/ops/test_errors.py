"""What conv2d says to bad input: the operation, the values on both sides, and the way out.

The other operations' errors are tested beside them.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest

import xpcnn
from tests.support.ops import draw, mentions
from xpcnn import errors, ops

Kind = type[errors.XpcnnError] | tuple[type[errors.XpcnnError], ...]


class Bad(NamedTuple):
    """Shapes and dtypes of x, weight and bias, options, and what is to be raised, mentioning what."""

    kind: Kind
    told: tuple[str, ...]
    x: tuple[int, ...] = (2, 3, 8, 8)
    w: tuple[int, ...] = (5, 3, 3, 3)
    b: tuple[int, ...] | None = None
    dtypes: tuple[str, str, str] = ("float64", "float64", "float64")
    options: dict[str, Any] = {}  # noqa: RUF012  (never written to)


BAD = {
    "too few channels": Bad(
        errors.ShapeError,
        ("conv2d: x has C=3 channels (shape (2, 3, 8, 8)) but weight expects C=4 (shape (5, 4, 3, 3))",),
        w=(5, 4, 3, 3),
    ),
    "too many channels": Bad(
        errors.ShapeError, ("C=3", "C=1", "(2, 3, 8, 8)", "(5, 1, 3, 3)"), w=(5, 1, 3, 3)
    ),
    "channels of groups": Bad(
        errors.ShapeError,
        ("(2, 4, 8, 8)", "(6, 3, 3, 3)", "groups"),
        x=(2, 4, 8, 8),
        w=(6, 3, 3, 3),
        options={"groups": 2},
    ),
    "groups do not divide the channels": Bad(
        (errors.ShapeError, errors.ArgumentError), ("groups", "3", "2"), w=(4, 1, 3, 3), options={"groups": 2}
    ),
    "groups do not divide the outputs": Bad(
        (errors.ShapeError, errors.ArgumentError),
        ("groups", "5", "2"),
        x=(2, 4, 8, 8),
        w=(5, 2, 3, 3),
        options={"groups": 2},
    ),
    "no groups": Bad(errors.ArgumentError, ("groups", "0"), options={"groups": 0}),
    "kernel taller than the input": Bad(errors.ShapeError, ("kernel", "9", "8"), w=(5, 3, 9, 3)),
    "kernel wider than the input": Bad(errors.ShapeError, ("kernel", "9", "8"), w=(5, 3, 3, 9)),
    "kernel larger than the padded input": Bad(
        errors.ShapeError, ("kernel", "11", "10"), w=(5, 3, 11, 11), options={"padding": 1}
    ),
    "dilated beyond the input": Bad(errors.ShapeError, ("9", "8"), options={"dilation": 4}),
    "negative stride": Bad(errors.ArgumentError, ("stride", "-1"), options={"stride": -1}),
    "zero stride": Bad(errors.ArgumentError, ("stride", "0"), options={"stride": 0}),
    "zero stride in one axis": Bad(errors.ArgumentError, ("stride", "(2, 0)"), options={"stride": (2, 0)}),
    "three strides": Bad(errors.ArgumentError, ("stride", "(1, 1, 1)"), options={"stride": (1, 1, 1)}),
    "fractional stride": Bad(errors.ArgumentError, ("stride", "1.5"), options={"stride": 1.5}),
    "no stride": Bad(errors.ArgumentError, ("stride", "None"), options={"stride": None}),
    "negative padding": Bad(errors.ArgumentError, ("padding", "-1"), options={"padding": -1}),
    "negative padding in one axis": Bad(
        errors.ArgumentError, ("padding", "(0, -2)"), options={"padding": (0, -2)}
    ),
    "unknown padding": Bad(
        errors.ArgumentError, ("padding", "'full'", "valid", "same"), options={"padding": "full"}
    ),
    "zero dilation": Bad(errors.ArgumentError, ("dilation", "0"), options={"dilation": 0}),
    "same with stride 2": Bad(
        (errors.ArgumentError, errors.ShapeError),
        ("same", "stride", "2"),
        options={"padding": "same", "stride": 2},
    ),
    "x has three axes": Bad(errors.ShapeError, ("x", "(3, 8, 8)"), x=(3, 8, 8)),
    "x has two axes": Bad(errors.ShapeError, ("x", "(8, 8)"), x=(8, 8)),
    "x has five axes": Bad(errors.ShapeError, ("x", "(1, 2, 3, 8, 8)"), x=(1, 2, 3, 8, 8)),
    "weight has two axes": Bad(errors.ShapeError, ("weight", "(5, 27)"), w=(5, 27)),
    "bias too short": Bad(errors.ShapeError, ("bias", "(4,)", "5"), b=(4,)),
    "bias has two axes": Bad(errors.ShapeError, ("bias", "(5, 1)", "5"), b=(5, 1)),
    "integer x": Bad(errors.DtypeError, ("x", "int64"), dtypes=("int64", "float64", "float64")),
    "unsigned x": Bad(errors.DtypeError, ("x", "uint8"), dtypes=("uint8", "float64", "float64")),
    "integer weight": Bad(errors.DtypeError, ("weight", "int32"), dtypes=("float64", "int32", "float64")),
    "bool x": Bad(errors.DtypeError, ("x", "bool"), dtypes=("bool", "float64", "float64")),
    "complex x": Bad(errors.DtypeError, ("x", "complex64"), dtypes=("complex64", "float64", "float64")),
    "weight of another dtype": Bad(
        errors.DtypeError, ("weight", "float32", "float64"), dtypes=("float32", "float64", "float32")
    ),
    "bias of another dtype": Bad(
        errors.DtypeError, ("bias", "float32", "float64"), b=(5,), dtypes=("float64", "float64", "float32")
    ),
    "unknown algorithm": Bad(
        errors.AlgorithmError,
        ("'fastest'", "auto", "loop", "im2col", "as_strided"),
        options={"algorithm": "fastest"},
    ),
    "an algorithm that is no name": Bad(
        errors.AlgorithmError, ("[]", "auto", "loop"), options={"algorithm": []}
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_conv2d(make: Any, bad: Bad) -> None:
    x, w = make.array(np.zeros(bad.x), bad.dtypes[0]), make.array(np.zeros(bad.w), bad.dtypes[1])
    b = None if bad.b is None else make.array(np.zeros(bad.b), bad.dtypes[2])
    with pytest.raises(bad.kind, match=mentions("conv2d", *bad.told)):
        ops.conv2d(x, w, b, **bad.options)


def test_backward_gradient_of_wrong_shape(make: Any) -> None:
    _, ctx = ops.conv2d(make.array(draw(2, 3, 8, 8)), make.array(draw(5, 3, 3, 3)))
    for shape in ((2, 5, 6, 5), (2, 4, 6, 6), (1, 5, 6, 6), (2, 6, 6, 5), (5, 6, 6)):
        with pytest.raises(errors.ShapeError, match=mentions("dy", str(shape), "(2, 5, 6, 6)")):
            ops.conv2d.backward(ctx, make.array(np.zeros(shape)))


def test_backward_gradient_of_wrong_dtype(make: Any) -> None:
    _, ctx = ops.conv2d(make.array(draw(2, 3, 8, 8)), make.array(draw(5, 3, 3, 3)))
    for dtype in ("float32", "int64"):
        with pytest.raises(errors.DtypeError, match=mentions("conv2d.backward", "dy", dtype)):
            ops.conv2d.backward(ctx, make.array(np.zeros((2, 5, 6, 6)), dtype))


@pytest.mark.parametrize("name", ["fastest", "", None], ids=repr)
def test_conv_algorithm_unknown(name: Any) -> None:
    with pytest.raises(errors.AlgorithmError, match=mentions("loop", "im2col", "as_strided")):  # noqa: SIM117
        with xpcnn.conv_algorithm(name):
            pytest.fail("entered a block with an unknown algorithm")


@pytest.mark.parametrize("x", [[[1.0]], 1.0, None, "image"], ids=repr)
def test_not_an_array(x: Any) -> None:
    with pytest.raises(errors.XpcnnError, match=mentions("conv2d", "asarray")):
        ops.conv2d(x, np.zeros((1, 1, 1, 1)))


# Two backends -----------------------------------------------------------------------------------------


def made_by(backend: str, *shape: int) -> Any:
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    with xpcnn.use_backend(backend):
        return xpcnn.asarray(draw(*shape))


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.permutations(["numpy", "torch", "array_api_strict"], 2)), ids=str
)
def test_mixed_backends(first: str, second: str) -> None:
    """Both sides and the fix are named; nothing is moved silently."""
    x, w = made_by(first, 2, 3, 8, 8), made_by(second, 5, 3, 3, 3)

    def told(name: str) -> str:
        return mentions(name, first, second, "xpcnn.asarray", "to_numpy")

    with pytest.raises(errors.BackendError, match=told("conv2d")):
        ops.conv2d(x, w)
    with pytest.raises(errors.BackendError, match=told("conv2d")):
        ops.conv2d(x, made_by(first, 5, 3, 3, 3), made_by(second, 5))
    _, ctx = ops.conv2d(x, made_by(first, 5, 3, 3, 3))
    with pytest.raises(errors.BackendError, match=told("conv2d.backward")):
        ops.conv2d.backward(ctx, made_by(second, 2, 5, 6, 6))
    with pytest.raises(errors.BackendError, match=told("linear")):
        ops.linear(made_by(first, 5, 4), made_by(second, 3, 4))
    with pytest.raises(errors.BackendError, match=told("batch_norm")):
        ops.batch_norm(made_by(first, 5, 4), made_by(second, 4), train=True)
    with pytest.raises(errors.BackendError, match=told("layer_norm")):
        ops.layer_norm(made_by(first, 5, 4), 4, made_by(second, 4))
    with pytest.raises(errors.BackendError, match=told("group_norm")):
        ops.group_norm(made_by(first, 5, 4), 2, None, made_by(second, 4))
    with pytest.raises(errors.BackendError, match=told("conv_transpose2d")):
        ops.conv_transpose2d(x, made_by(second, 3, 5, 3, 3))
    with pytest.raises(errors.BackendError, match=told("softmax_cross_entropy")):
        ops.softmax_cross_entropy(made_by(first, 5, 4), made_by(second, 5, 4))
    with pytest.raises(errors.BackendError, match=told("mean_squared_error")):
        ops.mean_squared_error(made_by(first, 5, 4), made_by(second, 5, 4))
    _, ctx = ops.gelu(made_by(first, 5, 4))
    with pytest.raises(errors.BackendError, match=told("gelu.backward")):
        ops.gelu.backward(ctx, made_by(second, 5, 4))
    _, ctx = ops.relu(made_by(first, 5, 4))
    with pytest.raises(errors.BackendError, match=told("relu.backward")):
        ops.relu.backward(ctx, made_by(second, 5, 4))


def test_the_setting_does_not_matter_to_operations(make: Any) -> None:
    """Computation asks the arrays: any current backend leaves results where their inputs are."""
    x, w = make.array(draw(2, 3, 5, 5)), make.array(draw(4, 3, 3, 3))
    for name, reason in xpcnn.available_backends().items():
        if reason is None:
            with xpcnn.use_backend(name):
                y, ctx = ops.conv2d(x, w)
                dx, dw, _ = ops.conv2d.backward(ctx, y)
                dropped, _ = ops.dropout(x, 0.5, 1)
            for array, shape in ((y, (2, 4, 3, 3)), (dx, x.shape), (dw, w.shape), (dropped, x.shape)):
                make.check_kind(array, tuple(shape), "float64")
