"""conv_transpose2d and its backward, through every algorithm on every backend, against loops."""

from __future__ import annotations

from typing import Any

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
    if any(e >= max(s, d) for e, s, d in zip(output_padding, stride, dilation, strict=True)):
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


def test_backward_takes_the_algorithm_of_its_forward() -> None:
    with xpcnn.conv_algorithm("loop"):
        y, ctx = ops.conv_transpose2d(draw(1, 2, 3, 3), draw(2, 1, 2, 2))
    assert ctx.algorithm == "loop"
    for needed in ({"need_dx": False}, {"need_dweight": False}):
        with pytest.raises(errors.AlgorithmError, match="nobody"):
            ops.conv_transpose2d.backward(ctx._replace(algorithm="nobody"), y, **needed)
