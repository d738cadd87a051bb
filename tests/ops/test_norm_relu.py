"""Batch normalisation with a ReLU behind it is the two ops, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.test_norm import Numbers, every_mode, every_shape
from tests.support import oracles
from tests.support.ops import LAYOUTS, draw, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.ops import fused


@every_mode
@every_shape
def test_batch_norm_relu(make: Any, dtype: str, shape: tuple[int, ...], train: bool) -> None:
    numbers = Numbers(shape, dtype)
    x, dy, parameters = make.array(numbers.x), make.array(numbers.dy), numbers.parameters(make)
    with make.unchanged(x, *parameters):
        y, ctx = fused.batch_norm_relu(x, *parameters, train=train, momentum=0.3, eps=1e-3)
    mean, var, _ = oracles.batch_statistics(numbers.x) if train else (numbers.mean, numbers.var, None)
    normalised = oracles.batch_norm(numbers.x, numbers.weight, numbers.bias, mean, var, 1e-3)
    make.check(y, np.maximum(normalised, 0), dtype)
    with make.unchanged(x, dy, ctx):
        dx, dw, db = fused.batch_norm_relu.backward(ctx, dy)
    kept = np.where(normalised > 0, numbers.dy, 0)
    expected = oracles.batch_norm_gradients(numbers.x, numbers.weight, kept, mean, var, train, 1e-3)
    for got, value in zip((dx, dw, db), expected, strict=True):
        make.check(got, value, dtype, rtol=1e-3 if dtype == "float32" else 1e-9)


@every_mode
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (40, 16, 12, 11)], ids=["small", "large"])
def test_the_bits_are_those_of_the_two_ops(
    make: Any, dtype: str, shape: tuple[int, ...], layout: Any, train: bool
) -> None:
    numbers = Numbers(shape, dtype)
    numbers.x[0, 1, 2, 3] = np.nan if not train else 0
    x, dy = layout(make, numbers.x), layout(make, numbers.dy)
    y, ctx = fused.batch_norm_relu(x, *numbers.parameters(make), train=train)
    normalised, norm_ctx = ops.batch_norm(x, *numbers.parameters(make), train=train)
    expected, relu_ctx = ops.relu(normalised)
    gradients = fused.batch_norm_relu.backward(ctx, dy)
    separate = ops.batch_norm.backward(norm_ctx, ops.relu.backward(relu_ctx, dy))
    pairs = [(y, expected), *zip(gradients, separate, strict=True)]
    if train:
        pairs += [(ctx[0].running_mean, norm_ctx.running_mean), (ctx[0].running_var, norm_ctx.running_var)]
    for got, value in pairs:
        np.testing.assert_array_equal(make.to_numpy(got), make.to_numpy(value))


@pytest.mark.parametrize("other_order", [False, True], ids=["y as x", "y in another order"])
def test_channels_last_stays(other_order: bool) -> None:
    numbers = Numbers((40, 16, 12, 11), "float32")
    x, dy = (
        np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        for array in (numbers.x, numbers.dy)
    )
    y, (norm, relu) = fused.batch_norm_relu(x, numbers.weight, numbers.bias, train=True)
    expected = fused.batch_norm_relu.backward((norm, relu), dy)
    if other_order:
        relu = ops.OutputContext(np.ascontiguousarray(y))
    got = fused.batch_norm_relu.backward((norm, relu), dy)
    assert is_channels_last(y)
    assert is_channels_last(got[0])
    for array, value in zip(got, expected, strict=True):
        np.testing.assert_allclose(array, value, rtol=1e-4, atol=1e-4)


def test_errors_are_those_of_batch_norm(make: Any) -> None:
    x, weight = make.array(draw(2, 3, 4, 4)), make.array(draw(4))
    with pytest.raises(errors.ShapeError, match=mentions("batch_norm", "weight", "C=3", "(4,)")):
        fused.batch_norm_relu(x, weight, train=True)
    with pytest.raises(errors.ArgumentError, match="running_mean and running_var"):
        fused.batch_norm_relu(x)
    _, ctx = fused.batch_norm_relu(x, train=True)
    with pytest.raises(errors.ShapeError, match=r"^relu\.backward: dy"):
        fused.batch_norm_relu.backward(ctx, x[:1, ...])
