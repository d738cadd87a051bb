"""What convolutions say to bad input: the operation, the values on both sides, and the way out.

The other operations' errors are tested beside them.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any, NamedTuple

import numpy as np
import pytest

import xpcnn
from tests.support.op_cases import OPS
from tests.support.ops import draw, mentions
from xpcnn import errors, ops

Kind = type[errors.XpcnnError] | tuple[type[errors.XpcnnError], ...]


class Bad(NamedTuple):
    """Shapes of x, weight and bias, options, and what is to be raised, mentioning what."""

    kind: Kind
    told: tuple[str, ...]
    x: tuple[int, ...] = (2, 3, 8, 8)
    w: tuple[int, ...] = (5, 3, 3, 3)
    b: tuple[int, ...] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    op: str = "conv2d"


S, A, L = errors.ShapeError, errors.ArgumentError, errors.AlgorithmError
BAD = {
    "too few channels": Bad(
        S,
        ("conv2d: x has C=3 channels (shape (2, 3, 8, 8)) but weight expects C=4 (shape (5, 4, 3, 3))",),
        w=(5, 4, 3, 3),
    ),
    "too many channels": Bad(S, ("C=3", "C=1", "(2, 3, 8, 8)", "(5, 1, 3, 3)"), w=(5, 1, 3, 3)),
    "channels of groups": Bad(
        S, ("(2, 4, 8, 8)", "groups"), (2, 4, 8, 8), (6, 3, 3, 3), options={"groups": 2}
    ),
    "groups and channels": Bad((S, A), ("groups", "3", "2"), w=(4, 1, 3, 3), options={"groups": 2}),
    "groups and outputs": Bad((S, A), ("groups", "5"), (2, 4, 8, 8), (5, 2, 3, 3), options={"groups": 2}),
    "kernel taller than the input": Bad(S, ("kernel", "9", "8"), w=(5, 3, 9, 3)),
    "kernel wider than the input": Bad(S, ("kernel", "9", "8"), w=(5, 3, 3, 9)),
    "larger than the padded input": Bad(S, ("kernel", "11", "10"), w=(5, 3, 11, 11), options={"padding": 1}),
    "dilated beyond the input": Bad(S, ("9", "8"), options={"dilation": 4}),
    "same with stride 2": Bad((A, S), ("same", "stride", "2"), options={"padding": "same", "stride": 2}),
    "unknown padding": Bad(A, ("padding", "'full'", "valid", "same"), options={"padding": "full"}),
    **{
        f"{name}={value!r}": Bad(A, (name, repr(value)), options={name: value})
        for name, value in (
            *(("groups", 0), ("stride", -1), ("stride", 0), ("stride", (2, 0)), ("stride", (1, 1, 1))),
            *(("stride", 1.5), ("stride", None), ("padding", -1), ("padding", (0, -2)), ("dilation", 0)),
        )
    },
    "x has three axes": Bad(S, ("x", "(3, 8, 8)"), x=(3, 8, 8)),
    "x has five axes": Bad(S, ("x", "(1, 2, 3, 8, 8)"), x=(1, 2, 3, 8, 8)),
    "weight has two axes": Bad(S, ("weight", "(5, 27)"), w=(5, 27)),
    "bias too short": Bad(S, ("bias", "(4,)", "5"), b=(4,)),
    "bias has two axes": Bad(S, ("bias", "(5, 1)", "5"), b=(5, 1)),
    "unknown algorithm": Bad(L, ("'fastest'", "auto", "loop", "im2col"), options={"algorithm": "fastest"}),
    "an algorithm that is no name": Bad(L, ("[]", "auto", "loop"), options={"algorithm": []}),
}


Transposed = functools.partial(Bad, w=(3, 5, 3, 3), op="conv_transpose2d")
TRANSPOSED = {
    "channels": Transposed(
        S,
        ("x has C=3 channels (shape (2, 3, 8, 8)) but weight expects C=4 (shape (4, 5, 3, 3))",),
        w=(4, 5, 3, 3),
    ),
    "groups do not divide": Transposed(S, ("groups=2", "C=3"), options={"groups": 2}),
    "no groups": Transposed(A, ("groups", "0"), options={"groups": 0}),
    "bias": Transposed(
        S, ("bias", "(10,)", "(5,)"), x=(2, 4, 8, 8), w=(4, 5, 3, 3), b=(5,), options={"groups": 2}
    ),
    "x of three axes": Transposed(S, ("x", "(3, 8, 8)", "4 axes"), x=(3, 8, 8)),
    "weight of two axes": Transposed(S, ("weight", "(3, 45)", "4 axes"), w=(3, 45)),
    "empty weight": Transposed(S, ("weight", "(3, 0, 3, 3)"), w=(3, 0, 3, 3)),
    "no pixels": Transposed(S, ("no pixels", "(2, 3, 0, 8)"), x=(2, 3, 0, 8)),
    "zero stride": Transposed(A, ("stride", "0"), options={"stride": 0}),
    "negative padding": Transposed(A, ("padding", "-1"), options={"padding": -1}),
    "named padding": Transposed(A, ("padding", "'same'"), options={"padding": "same"}),
    "zero dilation": Transposed(A, ("dilation", "0"), options={"dilation": 0}),
    "three output paddings": Transposed(
        A, ("output_padding", "(0, 0, 0)"), options={"output_padding": (0, 0, 0)}
    ),
    "output padding of a stride": Transposed(
        A, ("output_padding (0, 2)", "(2, 2)"), options={"stride": 2, "output_padding": (0, 2)}
    ),
    "nothing left": Transposed(S, ("padding (5, 5)", "0x0"), options={"padding": 5}),
}


@pytest.mark.parametrize("bad", [*BAD.values(), *TRANSPOSED.values()], ids=[*BAD, *TRANSPOSED])
def test_convolutions(make: Any, bad: Bad) -> None:
    x, w = make.array(np.zeros(bad.x)), make.array(np.zeros(bad.w))
    b = None if bad.b is None else make.array(np.zeros(bad.b))
    with pytest.raises(bad.kind, match=mentions(bad.op, *bad.told)):
        getattr(ops, bad.op)(x, w, b, **bad.options)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("max_pool2d", (2,), "max_pool2d: x must have 4 axes (N, C, H, W), got shape (3,)"),
        ("batch_norm", (), "batch_norm: x must have at least 2 axes (N, C, ...), got shape (3,)"),
    ],
)
def test_too_few_axes(make: Any, name: str, more: tuple[int, ...], message: str) -> None:
    with pytest.raises(errors.ShapeError, match=re.escape(message)):
        getattr(ops, name)(make.array(np.zeros(3)), *more)


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


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("first", "second"), [*itertools.permutations(["numpy", "torch", "array_api_strict"], 2)]
)
def test_mixed_backends(first: str, second: str, name: str) -> None:
    """Both sides and the fix are named; nothing is moved silently."""
    for backend in (first, second):
        if reason := xpcnn.available_backends()[backend]:
            pytest.skip(reason)

    def on(backend: str) -> list[Any]:
        with xpcnn.use_backend(backend):
            return OPS[name].draw(xpcnn.asarray)

    owner = "batch_norm" if name == "batch_norm_relu" else name
    for k, other in enumerate(on(second)[1:], start=1):
        given = on(first)
        given[k] = other
        with pytest.raises(
            errors.BackendError, match=mentions(owner, first, second, "xpcnn.asarray", "to_numpy")
        ):
            OPS[name](*given)
    _, ctx = OPS[name](*on(first))
    y, _ = OPS[name](*on(second))
    if y.ndim:
        with pytest.raises(errors.BackendError, match=mentions(".backward", first, second, "xpcnn.asarray")):
            OPS[name].backward(ctx, y)


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
