"""conv_transpose2d and its backward, through every algorithm on every backend, against loops."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import xpcnn
from tests.support.conv_cases import TRANSPOSED as CASES
from tests.support.conv_cases import Transposed, arrays, check_passes
from tests.support.conv_cases import transposed_reference as reference
from tests.support.ops import draw, mentions
from xpcnn import errors, ops

# All algorithms and both dtypes, not each with each: test_conv2d.py goes through those.
WAYS = [("auto", "float32"), ("auto", "float64"), ("as_strided", "float64"), ("loop", "float64")]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(("algorithm", "dtype"), WAYS)
def test_matches_the_loops(make: Any, algorithm: str, dtype: str, case: Transposed) -> None:
    r = reference(case, dtype)
    x, w, b, dy = arrays(make, r)
    with make.unchanged(x, w, b), xpcnn.conv_algorithm(algorithm):
        y, ctx = ops.conv_transpose2d(x, w, b, **case.options)
    assert ctx.algorithm == algorithm
    assert ctx.x is x
    assert ctx.weight is w
    with make.unchanged(x, w, dy, ctx):
        gradients = ops.conv_transpose2d.backward(ctx, dy)
    check_passes(make, (y, *gradients), r, dtype)


@pytest.mark.parametrize("algorithm", ["im2col", "as_strided", "auto"])
@pytest.mark.parametrize("limit", [140_000, 60_000])
def test_workspace_limit(make: Any, algorithm: str, limit: int) -> None:
    """Cut through the batch, then through rows of x, with the same results."""
    case = Transposed((3, 4, 18, 16), (4, 3, 3, 3), stride=2, padding=1, output_padding=1)
    r = reference(case)
    x, w, b, dy = arrays(make, r)
    xpcnn.set_workspace_limit(limit)
    with xpcnn.conv_algorithm(algorithm):
        y, ctx = ops.conv_transpose2d(x, w, b, **case.options)
    check_passes(make, (y, *ops.conv_transpose2d.backward(ctx, dy)), r, "float64")
    xpcnn.set_workspace_limit(1000)
    told = mentions("conv_transpose2d", "im2col", "limit", "1000")
    with xpcnn.conv_algorithm("im2col"), pytest.raises(errors.AlgorithmError, match=told):
        ops.conv_transpose2d(x, w, b, **case.options)


small = st.tuples(st.integers(1, 4), st.integers(1, 4))


@pytest.mark.fuzz
@given(
    size=small,
    kernel=small,
    stride=small,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    output_padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=small,
    groups=st.integers(1, 2),
    algorithm=st.sampled_from(["im2col", "as_strided"]),
)
@settings(max_examples=100)
def test_random_geometry(
    size: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: int,
    algorithm: str,
) -> None:
    """The loops' answer, or an error where nothing is left or the output padding is too large."""
    case = Transposed(
        (1, 2, *size), (2, 1, *kernel), stride, padding, output_padding, groups, dilation, bias=False
    )
    expected = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, output_padding, strict=True)
    ]
    x, w = draw(*case.x, seed=1), draw(*case.w, seed=2)
    if any(e >= s for e, s in zip(output_padding, stride, strict=True)):
        with pytest.raises(errors.ArgumentError, match="output_padding"):
            ops.conv_transpose2d(x, w, **case.options)
        return
    if min(expected) < 1:
        with pytest.raises(errors.ShapeError, match="padding"):
            ops.conv_transpose2d(x, w, **case.options)
        return
    assume(np.prod(expected) < 200)
    r = reference(case)
    with xpcnn.conv_algorithm(algorithm):
        y, ctx = ops.conv_transpose2d(r.x, r.w, **case.options)
    assert y.shape[2:] == tuple(expected)
    dx, dw, _ = ops.conv_transpose2d.backward(ctx, r.dy)
    for got, wanted in ((y, r.y), (dx, r.dx), (dw, r.dw)):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)


# Errors -----------------------------------------------------------------------------------------------


class Bad(NamedTuple):
    """Shapes of x, weight and bias, options, and what is to be raised, mentioning what."""

    kind: type[errors.XpcnnError]
    told: tuple[str, ...]
    x: tuple[int, ...] = (2, 3, 8, 8)
    w: tuple[int, ...] = (3, 5, 3, 3)
    b: tuple[int, ...] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012  (never written to)


BAD = {
    "channels": Bad(
        errors.ShapeError,
        ("x has C=3 channels (shape (2, 3, 8, 8)) but weight expects C=4 (shape (4, 5, 3, 3))",),
        w=(4, 5, 3, 3),
    ),
    "groups do not divide": Bad(errors.ShapeError, ("groups=2", "C=3"), options={"groups": 2}),
    "no groups": Bad(errors.ArgumentError, ("groups", "0"), options={"groups": 0}),
    "bias": Bad(
        errors.ShapeError,
        ("bias", "(10,)", "(5,)"),
        x=(2, 4, 8, 8),
        w=(4, 5, 3, 3),
        b=(5,),
        options={"groups": 2},
    ),
    "x of three axes": Bad(errors.ShapeError, ("x", "(3, 8, 8)", "4 axes"), x=(3, 8, 8)),
    "weight of two axes": Bad(errors.ShapeError, ("weight", "(3, 45)", "4 axes"), w=(3, 45)),
    "empty weight": Bad(errors.ShapeError, ("weight", "(3, 0, 3, 3)"), w=(3, 0, 3, 3)),
    "no pixels": Bad(errors.ShapeError, ("no pixels", "(2, 3, 0, 8)"), x=(2, 3, 0, 8)),
    "zero stride": Bad(errors.ArgumentError, ("stride", "0"), options={"stride": 0}),
    "negative padding": Bad(errors.ArgumentError, ("padding", "-1"), options={"padding": -1}),
    "named padding": Bad(errors.ArgumentError, ("padding", "'same'"), options={"padding": "same"}),
    "zero dilation": Bad(errors.ArgumentError, ("dilation", "0"), options={"dilation": 0}),
    "three output paddings": Bad(
        errors.ArgumentError, ("output_padding", "(0, 0, 0)"), options={"output_padding": (0, 0, 0)}
    ),
    "output padding of a stride": Bad(
        errors.ArgumentError,
        ("output_padding (0, 2)", "(2, 2)"),
        options={"stride": 2, "output_padding": (0, 2)},
    ),
    "nothing left": Bad(errors.ShapeError, ("padding (5, 5)", "0x0"), options={"padding": 5}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_arguments(bad: Bad) -> None:
    x, w, b = np.zeros(bad.x), np.zeros(bad.w), None if bad.b is None else np.zeros(bad.b)
    with pytest.raises(bad.kind, match=mentions("conv_transpose2d", *bad.told)):
        ops.conv_transpose2d(x, w, b, **bad.options)


def test_backward_takes_the_algorithm_of_its_forward() -> None:
    with xpcnn.conv_algorithm("loop"):
        y, ctx = ops.conv_transpose2d(draw(1, 2, 3, 3), draw(2, 1, 2, 2))
    assert ctx.algorithm == "loop"
    for needed in ({"need_dx": False}, {"need_dweight": False}):
        with pytest.raises(errors.AlgorithmError, match="nobody"):
            ops.conv_transpose2d.backward(ctx._replace(algorithm="nobody"), y, **needed)
