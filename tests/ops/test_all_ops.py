"""What every op promises alike: any memory layout, and errors that name the op and both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.op_cases import IMAGES, OPS, ROWS
from tests.support.ops import LAYOUTS, channels_last, draw, is_channels_last, mentions
from xpcnn import errors

ELEMENTWISE = [name for name, case in OPS.items() if case.shapes == [ROWS] and name != "layer_norm"]
OF_IMAGES = [name for name, case in OPS.items() if case.shapes[0] == IMAGES]
IN_ANY_ORDER = {"flatten", "log_softmax", "softmax"}
"""Ops whose results need not lie channels-last where their images do."""


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", [*ELEMENTWISE, *OF_IMAGES])
def test_any_memory_layout(make: Any, name: str, layout: Any) -> None:
    """Results are those of the same numbers in C order; what convolutions hand on stays channels-last."""
    case = OPS[name]
    if name in ELEMENTWISE:
        case = case._replace(shapes=[IMAGES])
    arrays = case.draw(lambda v: layout(make, v) if v.ndim == 4 else make.array(v))
    arrays[0] = layout(make, draw(*IMAGES))
    with make.unchanged(*arrays):
        y, ctx = case(*arrays)
    dy = layout(make, draw(*y.shape)) if y.ndim == 4 else make.array(draw(*y.shape))
    with make.unchanged(*arrays, dy, ctx):
        gradients = case.backward(ctx, dy)
    *plain, plain_dy = (make.array(np.ascontiguousarray(make.to_numpy(array))) for array in (*arrays, dy))
    expected, ctx = case(*plain)
    found, right = [
        (value, *(of if isinstance(of, tuple) else (of,)))
        for value, of in ((y, gradients), (expected, case.backward(ctx, plain_dy)))
    ]
    for got, wanted in zip(found, right, strict=True):
        wanted = make.to_numpy(wanted)
        make.check(got, wanted, "float64", scale=max(1.0, float(np.abs(wanted).max())))
    if layout is channels_last and name not in IN_ANY_ORDER:
        assert is_channels_last(found[0])
        assert is_channels_last(found[1])


@pytest.mark.parametrize("name", OPS)
def test_wrong_arrays(make: Any, name: str) -> None:
    owner = "batch_norm" if name == "batch_norm_relu" else name
    with pytest.raises(errors.DtypeError, match=mentions(owner, "int64")):
        OPS[name](*OPS[name].draw(lambda values: make.array(np.ceil(values), "int64")))
    arrays = OPS[name].draw(make.array)
    for k in range(1, len(arrays)):
        mixed = [make.array(make.to_numpy(a), "float32") if i == k else a for i, a in enumerate(arrays)]
        with pytest.raises(errors.DtypeError, match=mentions(owner, "float32", "float64")):
            OPS[name](*mixed)
    y, ctx = OPS[name](*arrays)
    if y.ndim:
        wrong = (y.shape[0] + 1, *y.shape[1:])
        with pytest.raises(errors.ShapeError, match=mentions(".backward", str(wrong), str(tuple(y.shape)))):
            OPS[name].backward(ctx, make.array(np.zeros(wrong)))
        for dtype in ("float32", "int64"):
            with pytest.raises(errors.DtypeError, match=mentions(".backward", "dy", dtype)):
                OPS[name].backward(ctx, make.array(np.zeros(tuple(y.shape)), dtype))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "linear"])
def test_skipped_gradients_and_backward_twice(make: Any, name: str) -> None:
    y, ctx = OPS[name](*OPS[name].draw(make.array))
    backward = OPS[name].op.backward
    dx, *others = make.snapshot(backward(ctx, y))
    np.testing.assert_equal(make.snapshot(backward(ctx, y, need_dx=False)), [None, *others])
    np.testing.assert_equal(make.snapshot(backward(ctx, y, need_dweight=False)), [dx, None, None])
    assert backward(ctx, y, need_dx=False, need_dweight=False) == (None, None, None)
