"""Layer and group normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import LAYOUTS, Array, channels_last, draw, is_channels_last, mentions
from xpcnn import errors, ops

# (op, shape of x, what follows it, the shape of weight and bias)
CASES: dict[str, tuple[str, tuple[int, ...], Any, tuple[int, ...]]] = {
    "features": ("layer_norm", (5, 6), 6, (6,)),
    "two of three axes": ("layer_norm", (3, 2, 4), (2, 4), (2, 4)),
    "images": ("layer_norm", (2, 3, 4, 5), (3, 4, 5), (3, 4, 5)),
    "rows of images": ("layer_norm", (2, 3, 4, 5), 5, (5,)),
    "everything": ("layer_norm", (3, 4), (3, 4), (3, 4)),
    "vector": ("layer_norm", (6,), 6, (6,)),
    "two values": ("layer_norm", (3, 2), 2, (2,)),
    "empty batch": ("layer_norm", (0, 3, 2), (3, 2), (3, 2)),
    "groups of images": ("group_norm", (2, 6, 3, 4), 3, (6,)),
    "one group": ("group_norm", (3, 4, 2, 3), 1, (4,)),
    "a group for each channel": ("group_norm", (2, 3, 4, 5), 3, (3,)),
    "groups of features": ("group_norm", (4, 6), 2, (6,)),
    "groups of volumes": ("group_norm", (2, 4, 2, 3, 2), 2, (4,)),
    "1x1 image": ("group_norm", (2, 6, 1, 1), 3, (6,)),
    "empty batch of groups": ("group_norm", (0, 4, 3, 3), 2, (4,)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
both = pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
EPS = 1e-3


def numbers(case: Any, dtype: str = "float64") -> tuple[Array, ...]:
    """x, dy, weight, bias."""
    _, shape, _, parameters = case
    x = (2 + 3 * draw(*shape, seed=1)).astype(dtype)
    dy, *rest = (draw(*s, dtype=dtype, seed=k) for k, s in ((2, shape), (3, parameters), (4, parameters)))
    return x, dy, *rest


def expected_of(case: Any, x: Array, dy: Array, weight: Array, bias: Array, eps: float = EPS) -> list[Array]:
    """y, dx, dweight, dbias by the oracles, which take the number of axes, or of groups."""
    name, _, argument, parameters = case
    by = len(parameters) if name == "layer_norm" else argument
    y = getattr(oracles, name)(x, by, weight, bias, eps)
    return [y, *getattr(oracles, name + "_gradients")(x, by, weight, dy, eps)]


def check(make: Any, got: Any, expected: Any, dtype: str) -> None:
    """dx is a remainder of larger terms, whose size sets the rounding."""
    make.check(got[0], expected[0], dtype)
    make.check(got[1], expected[1], dtype, scale=3.0)
    for array, value in zip(got[2:], expected[2:], strict=True):
        make.check(array, value, dtype, scale=max(1.0, float(np.abs(value).max())))


@every_case
def test_values_and_gradients(make: Any, dtype: str, case: Any) -> None:
    host = numbers(case, dtype)
    x, dy, weight, bias = map(make.array, host)
    op = getattr(ops, case[0])
    with make.unchanged(x, weight, bias):
        y, ctx = op(x, case[2], weight, bias, eps=EPS)
    with make.unchanged(x, weight, dy, ctx):
        gradients = op.backward(ctx, dy)
    check(make, (y, *gradients), expected_of(case, *host), dtype)
    if case[1] == (2, 3, 4, 5):
        assert ctx.mean.shape == ctx.inverse_std.shape
        assert np.prod(ctx.mean.shape) <= 24


@pytest.mark.parametrize("given", ["none", "weight", "bias"])
@pytest.mark.parametrize("case", [CASES["images"], CASES["groups of images"]], ids=["layer", "group"])
def test_absent_parameters(make: Any, dtype: str, case: Any, given: str) -> None:
    x, dy, weight, bias = numbers(case, dtype)
    arrays = {name: make.array(a) for name, a in (("weight", weight), ("bias", bias)) if name == given}
    weight, bias = (
        a if name == given else a * 0 + one for name, a, one in (("weight", weight, 1), ("bias", bias, 0))
    )
    op = getattr(ops, case[0])
    y, ctx = op(make.array(x), case[2], **arrays, eps=EPS)
    dx, dw, db = op.backward(ctx, make.array(dy))
    expected = expected_of(case, x, dy, weight, bias)
    assert [dw is None, db is None] == [given != "weight", given != "bias"]
    check(make, (y, dx), expected[:2], dtype)
    for array, value in ((dw, expected[2]), (db, expected[3])):
        if array is not None:
            make.check(array, value, dtype, scale=max(1.0, float(np.abs(value).max())))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", ["images", "groups of images"])
def test_any_memory_layout(make: Any, layout: Any, name: str) -> None:
    case = CASES[name]
    op, (x, dy, weight, bias) = getattr(ops, case[0]), numbers(case)
    x, dy = layout(make, x), layout(make, dy)
    y, ctx = op(x, case[2], make.array(weight), make.array(bias), eps=EPS)
    with make.unchanged(x, dy, ctx):
        gradients = op.backward(ctx, dy)
    expected = expected_of(case, make.to_numpy(x), make.to_numpy(dy), weight, bias)
    check(make, (y, *gradients), expected, "float64")
    if layout is channels_last:  # as convolution hands it on
        assert is_channels_last(y)
        assert name == "images" or is_channels_last(gradients[0])  # a weight of all axes is not


def test_extremes(make: Any, dtype: str) -> None:
    """E[x²] − E[x]² would lose the variance altogether; one value alone is its own mean: y is the bias."""
    values = (1e4 + draw(4, 2, 16, 16)).astype("float32")
    make.check(ops.group_norm(make.array(values), 1)[0], oracles.group_norm(values, 1), "float32", rtol=1e-3)
    y, _ = ops.layer_norm(make.array(values), (2, 16, 16))
    make.check(y, oracles.layer_norm(values, 3), "float32", rtol=1e-3)
    x, bias = make.array([[5.0, -3.0]], dtype), make.array([0.5, 0.25], dtype)
    y, ctx = ops.group_norm(x, 2, None, bias)
    make.check(y, [[0.5, 0.25]], dtype)
    make.check(ops.group_norm.backward(ctx, x)[0], [[0.0, 0.0]], dtype, scale=1e-30)


def test_errors() -> None:
    x = draw(2, 3, 4)
    for shape in ((4, 3), (3,), (2, 3, 4, 5)):
        with pytest.raises(errors.ShapeError, match=mentions("layer_norm: ", str(shape), "(2, 3, 4)")):
            ops.layer_norm(x, shape)
    for wrong in (0, -1, (), (3, 0), 1.5, "4", (2.0,), True):
        with pytest.raises(errors.ArgumentError, match=mentions("layer_norm: normalized_shape", repr(wrong))):
            ops.layer_norm(x, wrong)
    for wrong in (0, -2, 1.5, "2", None, True):
        with pytest.raises(errors.ArgumentError, match=mentions("group_norm: num_groups", repr(wrong))):
            ops.group_norm(x, wrong)
    for array, groups, said in ((x, 2, "C=3"), (draw(4), 2, "(4,)"), (draw(2, 4, 0), 2, "(2, 4, 0)")):
        with pytest.raises(errors.ShapeError, match=mentions("group_norm", said)):
            ops.group_norm(array, groups)


@both
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_bad_arrays(name: str, parameter: str) -> None:
    op, x, size = getattr(ops, name), draw(2, 4, 3), 3 if name == "layer_norm" else 4
    argument = 3 if name == "layer_norm" else 2
    with pytest.raises(errors.ShapeError, match=mentions(name, parameter, "(5,)", f"({size},)")):
        op(x, argument, **{parameter: np.ones(5)})
