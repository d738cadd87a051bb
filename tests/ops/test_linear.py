"""linear and flatten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import draw, mentions
from xpcnn import errors, ops

SHAPES = {
    "matrix": (5, 4),
    "vector": (4,),
    "sequence": (2, 3, 4),
    "four axes": (2, 1, 3, 4),
    "empty batch": (0, 4),
    "empty sequence": (2, 0, 4),
}


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_linear(make: Any, dtype: str, shape: tuple[int, ...], with_bias: bool) -> None:
    values, weight = draw(*shape, dtype=dtype, seed=1), draw(3, 4, dtype=dtype, seed=2)
    bias = draw(3, dtype=dtype, seed=3) if with_bias else None
    x, w, b = make.array(values), make.array(weight), None if bias is None else make.array(bias)
    with make.unchanged(x, w, b):
        y, ctx = ops.linear(x, w, b)
    make.check(y, oracles.linear(values, weight, bias), dtype)
    dy_values = draw(*y.shape, dtype=dtype, seed=4)
    dy = make.array(dy_values)
    with make.unchanged(x, w, dy, ctx):
        gradients = ops.linear.backward(ctx, dy)
    expected = oracles.linear_gradients(values, weight, dy_values)
    for got, value in zip(gradients[: 2 + with_bias], expected, strict=False):
        make.check(got, value, dtype)
    assert (gradients[2] is None) == (not with_bias)


def test_transposed_and_broadcast_inputs(make: Any) -> None:
    values, weight = draw(5, 4), draw(3, 4)
    x, w = (make.xp.permute_dims(make.array(np.ascontiguousarray(a.T)), (1, 0)) for a in (values, weight))
    dy = make.xp.broadcast_to(make.array(np.full((1, 1), 0.25)), (5, 3))
    y, ctx = ops.linear(x, w)
    make.check(y, oracles.linear(values, weight), "float64")
    expected = oracles.linear_gradients(values, weight, np.full((5, 3), 0.25))
    for got, value in zip(ops.linear.backward(ctx, dy)[:2], expected, strict=False):
        make.check(got, value, "float64")


def test_bad_shapes(make: Any) -> None:
    w = make.array(draw(3, 4))
    calls = {
        ("flatten", "0-d"): lambda: ops.flatten(make.array(1.0)),
        ("linear", "(5, 6)", "(3, 4)"): lambda: ops.linear(make.array(draw(5, 6)), w),
        ("linear", "bias", "(4,)", "3"): lambda: ops.linear(make.array(draw(5, 4)), w, make.array(draw(4))),
        ("linear", "weight", "(3, 4, 1)"): lambda: ops.linear(w, make.array(draw(3, 4, 1))),
        ("linear", "()"): lambda: ops.linear(make.array(1.0), w),
    }
    for said, call in calls.items():
        with pytest.raises(errors.ShapeError, match=mentions(*said)):
            call()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3), (0, 3, 2, 2), (4,)], ids=str)
def test_flatten(make: Any, dtype: str, shape: tuple[int, ...]) -> None:
    values = draw(*shape, dtype=dtype)
    x = make.array(values)
    y, ctx = ops.flatten(x)
    expected = values.reshape(shape[0], int(np.prod(shape[1:])))
    make.check(y, expected, dtype, rtol=0)
    dy = make.array(2 * expected)
    with make.unchanged(x, dy, ctx):
        dx = ops.flatten.backward(ctx, dy)
    make.check(dx, 2 * values, dtype, rtol=0)
