"""Batch normalisation, training and inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import LAYOUTS, draw, is_channels_last, mentions
from xpcnn import errors, ops

SHAPES = {
    "features": (6, 3),
    "sequences": (4, 3, 5),
    "images": (4, 3, 2, 5),
    "two values": (2, 3),
    "one large image": (1, 3, 4, 4),
    "one channel": (5, 1, 2, 2),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
every_mode = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


class Numbers:
    """Inputs for a shape, on the host."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "float64") -> None:
        c = shape[1]
        self.x = (2 + 3 * draw(*shape, seed=1)).astype(dtype)
        self.dy = draw(*shape, dtype=dtype, seed=2)
        self.weight = draw(c, dtype=dtype, seed=3)
        self.bias = draw(c, dtype=dtype, seed=4)
        self.mean = draw(c, dtype=dtype, seed=5)
        self.var = (0.5 + draw(c, seed=6) ** 2).astype(dtype)

    def parameters(self, make: Any) -> tuple[Any, ...]:
        """(weight, bias, running_mean, running_var) as arrays of the backend."""
        return tuple(make.array(a) for a in (self.weight, self.bias, self.mean, self.var))


@every_mode
@every_shape
def test_batch_norm(make: Any, dtype: str, shape: tuple[int, ...], train: bool) -> None:
    numbers = Numbers(shape, dtype)
    x, dy, parameters = make.array(numbers.x), make.array(numbers.dy), numbers.parameters(make)
    with make.unchanged(x, *parameters):
        y, ctx = ops.batch_norm(x, *parameters, train=train, momentum=0.3, eps=1e-3)
    mean, var, unbiased = oracles.batch_statistics(numbers.x)
    if train:
        make.check(ctx.running_mean, 0.7 * oracles.float64(numbers.mean) + 0.3 * mean, dtype)
        make.check(ctx.running_var, 0.7 * oracles.float64(numbers.var) + 0.3 * unbiased, dtype)
    else:
        mean, var = numbers.mean, numbers.var
    make.check(y, oracles.batch_norm(numbers.x, numbers.weight, numbers.bias, mean, var, 1e-3), dtype)
    with make.unchanged(x, dy, ctx):
        dx, dw, db = ops.batch_norm.backward(ctx, dy)
    expected = oracles.batch_norm_gradients(numbers.x, numbers.weight, numbers.dy, mean, var, train, 1e-3)
    # With two values dx is a small remainder of large terms: those, not dx, set the size of rounding.
    terms = oracles.batch_norm_gradients(numbers.x, numbers.weight, numbers.dy, mean, var, False, 1e-3)[0]
    make.check(dx, expected[0], dtype, scale=float(np.abs(terms).max()))
    make.check(dw, expected[1], dtype)
    make.check(db, expected[2], dtype)


@every_mode
def test_without_weight_and_bias(make: Any, dtype: str, train: bool) -> None:
    numbers = Numbers((4, 3, 2, 2), dtype)
    _, _, running_mean, running_var = numbers.parameters(make)
    options = {"running_mean": running_mean, "running_var": running_var}
    y, ctx = ops.batch_norm(make.array(numbers.x), **options, train=train)
    mean, var = oracles.batch_statistics(numbers.x)[:2] if train else (numbers.mean, numbers.var)
    make.check(y, oracles.batch_norm(numbers.x, None, None, mean, var), dtype)
    dx, dw, db = ops.batch_norm.backward(ctx, make.array(numbers.dy))
    make.check(dx, oracles.batch_norm_gradients(numbers.x, None, numbers.dy, mean, var, train)[0], dtype)
    assert dw is None
    assert db is None


def test_without_running_statistics(make: Any) -> None:
    numbers = Numbers((4, 3))
    y, ctx = ops.batch_norm(make.array(numbers.x), train=True)
    mean, var, _ = oracles.batch_statistics(numbers.x)
    make.check(y, oracles.batch_norm(numbers.x, None, None, mean, var), "float64")
    assert ctx.running_mean is None
    assert ctx.running_var is None
    with pytest.raises(errors.ArgumentError, match=mentions("batch_norm", "running_mean")):
        ops.batch_norm(make.array(numbers.x))


def test_momentum_points_as_in_torch(make: Any, dtype: str) -> None:
    """Several steps against torch.nn.BatchNorm2d; momentum is the weight of the new batch."""
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm2d(3, momentum=0.2).double()
    weight, bias, mean, var = (
        make.array(a, dtype) for a in (np.ones(3), np.zeros(3), np.zeros(3), np.ones(3))
    )
    for step in range(4):
        values = (step + 2 * draw(5, 3, 4, 4, seed=step)).astype(dtype)
        expected = layer(torch.tensor(values, dtype=torch.float64)).detach().numpy()
        y, ctx = ops.batch_norm(make.array(values), weight, bias, mean, var, train=True, momentum=0.2)
        mean, var = ctx.running_mean, ctx.running_var
        make.check(y, expected, dtype)
    make.check(mean, layer.running_mean.numpy(), dtype)
    make.check(var, layer.running_var.numpy(), dtype)


def test_mean_far_from_zero(make: Any) -> None:
    """E[x²] − E[x]² would lose the variance altogether; the rounding of the mean itself costs 5e-4 here."""
    values = (1e4 + draw(64, 2, 4, 4)).astype("float32")
    y, _ = ops.batch_norm(make.array(values), train=True)
    mean, var, _ = oracles.batch_statistics(values)
    make.check(y, oracles.batch_norm(values, None, None, mean, var), "float32", rtol=1e-3)


def test_constant_channel(make: Any, dtype: str) -> None:
    """No variance: y is the bias, and eps keeps the gradient finite."""
    y, ctx = ops.batch_norm(
        make.array(np.full((4, 1, 2, 2), 3.0), dtype), bias=make.array([0.5], dtype), train=True
    )
    make.check(y, np.full((4, 1, 2, 2), 0.5), dtype)
    dy = draw(4, 1, 2, 2, dtype=dtype)
    dx, _, _ = ops.batch_norm.backward(ctx, make.array(dy))
    # 1/√eps = 316 times the centred gradient
    expected = (dy.astype("float64") - dy.astype("float64").mean()) / np.sqrt(1e-5)
    make.check(dx, expected, dtype)


@every_mode
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout(make: Any, layout: Any, train: bool) -> None:
    numbers = Numbers((3, 4, 3, 5))
    x, dy = layout(make, numbers.x), layout(make, numbers.dy)
    values, dy_values = make.to_numpy(x), make.to_numpy(dy)
    y, ctx = ops.batch_norm(x, *numbers.parameters(make), train=train)
    mean, var = oracles.batch_statistics(values)[:2] if train else (numbers.mean, numbers.var)
    make.check(y, oracles.batch_norm(values, numbers.weight, numbers.bias, mean, var), "float64")
    with make.unchanged(x, dy, ctx):
        gradients = ops.batch_norm.backward(ctx, dy)
    expected = oracles.batch_norm_gradients(values, numbers.weight, dy_values, mean, var, train)
    terms = oracles.batch_norm_gradients(values, numbers.weight, dy_values, mean, var, False)
    for got, wanted, size in zip(gradients, expected, terms, strict=True):
        make.check(got, wanted, "float64", scale=float(np.abs(size).max()))


@every_mode
def test_channels_last_stays(train: bool) -> None:
    """Normalisation works in the layout that convolution hands it."""
    numbers = Numbers((2, 3, 4, 5))
    x = np.ascontiguousarray(numbers.x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y, _ = ops.batch_norm(x, numbers.weight, numbers.bias, numbers.mean, numbers.var, train=train)
    assert is_channels_last(y)


def test_empty_batch(make: Any) -> None:
    numbers = Numbers((0, 3, 2, 2))
    x, parameters = make.array(numbers.x), numbers.parameters(make)
    y, ctx = ops.batch_norm(x, *parameters)
    make.check_kind(y, (0, 3, 2, 2), "float64")
    dx, dw, db = ops.batch_norm.backward(ctx, x)
    make.check_kind(dx, (0, 3, 2, 2), "float64")
    make.check(dw, np.zeros(3), "float64")
    make.check(db, np.zeros(3), "float64")
    with pytest.raises(errors.ShapeError, match=mentions("batch_norm", "empty batch")):
        ops.batch_norm(x, *parameters, train=True)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)], ids=str)
def test_one_value_per_channel(make: Any, shape: tuple[int, ...]) -> None:
    """It has no variance to normalise by; inference does not need one."""
    x, parameters = make.array(draw(*shape)), Numbers(shape).parameters(make)
    with pytest.raises(errors.ShapeError, match=mentions("batch_norm", str(shape))):
        ops.batch_norm(x, *parameters, train=True)
    y, _ = ops.batch_norm(x, *parameters)
    make.check_kind(y, shape, "float64")


def test_bad_arrays(make: Any) -> None:
    x, right, wrong = make.array(draw(4, 3, 2, 2)), make.array(np.ones(3)), make.array(np.ones(4))
    for name in ("weight", "bias", "running_mean", "running_var"):
        given = {"running_mean": right, "running_var": right} | {name: wrong}
        with pytest.raises(errors.ShapeError, match=mentions("batch_norm", name, "(4,)", "3")):
            ops.batch_norm(x, **given)
        given[name] = make.array(np.ones(3), "float32")
        with pytest.raises(errors.DtypeError, match=mentions("batch_norm", name, "float32", "float64")):
            ops.batch_norm(x, **given)
    with pytest.raises(errors.DtypeError, match=mentions("batch_norm", "x", "int64")):
        ops.batch_norm(make.array(np.ones((4, 3)), "int64"), train=True)
    with pytest.raises(errors.ShapeError, match=mentions("batch_norm", "(4,)")):
        ops.batch_norm(make.array(draw(4)), train=True)
    _, ctx = ops.batch_norm(x, train=True)
    with pytest.raises(errors.ShapeError, match=mentions("batch_norm.backward", "(4, 3, 2)", "(4, 3, 2, 2)")):
        ops.batch_norm.backward(ctx, make.array(draw(4, 3, 2)))
