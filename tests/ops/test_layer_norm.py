"""Layer and group normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import LAYOUTS, Array, draw, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.testing import gradcheck_op

# (shape of x, how many of its last axes are normalised)
LAYERS = {
    "features": ((5, 6), 1),
    "sequences": ((2, 3, 4), 1),
    "two of three axes": ((3, 2, 4), 2),
    "images": ((2, 3, 4, 5), 3),
    "rows": ((2, 3, 4, 5), 1),
    "everything": ((3, 4), 2),
    "vector": ((6,), 1),
    "batch 1": ((1, 3, 2, 2), 3),
    "two values": ((3, 2), 1),
    "empty batch": ((0, 3, 2), 2),
}
# (shape of x, groups)
GROUPS = {
    "images": ((2, 6, 3, 4), 3),
    "one group": ((3, 4, 2, 3), 1),
    "a group for each channel": ((2, 3, 4, 5), 3),
    "features": ((4, 6), 2),
    "sequences": ((3, 4, 5), 2),
    "volumes": ((2, 4, 2, 3, 2), 2),
    "batch 1": ((1, 4, 3, 3), 2),
    "1x1 image": ((2, 6, 1, 1), 3),
    "empty batch": ((0, 4, 3, 3), 2),
}


class Numbers:
    """Inputs on the host."""

    def __init__(self, shape: tuple[int, ...], parameters: tuple[int, ...], dtype: str = "float64") -> None:
        self.x = (2 + 3 * draw(*shape, seed=1)).astype(dtype)
        self.dy = draw(*shape, dtype=dtype, seed=2)
        self.weight = draw(*parameters, dtype=dtype, seed=3)
        self.bias = draw(*parameters, dtype=dtype, seed=4)


def check_gradients(make: Any, got: Any, expected: tuple[Array, Array, Array], terms: float) -> None:
    """dx is a remainder of larger terms, whose size sets the rounding."""
    dtype = str(got[0].dtype).rsplit(".", 1)[-1]
    make.check(got[0], expected[0], dtype, scale=terms)
    make.check(got[1], expected[1], dtype, scale=max(1.0, float(np.abs(expected[1]).max())))
    make.check(got[2], expected[2], dtype, scale=max(1.0, float(np.abs(expected[2]).max())))


@pytest.mark.parametrize(("shape", "axes"), LAYERS.values(), ids=LAYERS.keys())
def test_layer_norm(make: Any, dtype: str, shape: tuple[int, ...], axes: int) -> None:
    normalised = shape[len(shape) - axes :]
    n = Numbers(shape, normalised, dtype)
    x, w, b, dy = (make.array(a) for a in (n.x, n.weight, n.bias, n.dy))
    with make.unchanged(x, w, b):
        y, ctx = ops.layer_norm(x, normalised, w, b, eps=1e-3)
    make.check(y, oracles.layer_norm(n.x, axes, n.weight, n.bias, 1e-3), dtype)
    with make.unchanged(x, w, dy, ctx):
        gradients = ops.layer_norm.backward(ctx, dy)
    expected = oracles.layer_norm_gradients(n.x, axes, n.weight, n.dy, 1e-3)
    check_gradients(make, gradients, expected, terms=3.0)


@pytest.mark.parametrize(("shape", "groups"), GROUPS.values(), ids=GROUPS.keys())
def test_group_norm(make: Any, dtype: str, shape: tuple[int, ...], groups: int) -> None:
    n = Numbers(shape, shape[1:2], dtype)
    x, w, b, dy = (make.array(a) for a in (n.x, n.weight, n.bias, n.dy))
    with make.unchanged(x, w, b):
        y, ctx = ops.group_norm(x, groups, w, b, eps=1e-3)
    make.check(y, oracles.group_norm(n.x, groups, n.weight, n.bias, 1e-3), dtype)
    with make.unchanged(x, w, dy, ctx):
        gradients = ops.group_norm.backward(ctx, dy)
    expected = oracles.group_norm_gradients(n.x, groups, n.weight, n.dy, 1e-3)
    check_gradients(make, gradients, expected, terms=3.0)


@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_without_parameters(make: Any, dtype: str, name: str) -> None:
    n = Numbers((2, 4, 3, 2), (4,), dtype)
    argument, ones = ((4, 3, 2), np.ones((4, 3, 2))) if name == "layer_norm" else (2, np.ones(4))
    by = 3 if name == "layer_norm" else 2
    y, ctx = getattr(ops, name)(make.array(n.x), argument)
    make.check(y, getattr(oracles, name)(n.x, by), dtype)
    dx, dw, db = getattr(ops, name).backward(ctx, make.array(n.dy))
    make.check(dx, getattr(oracles, name + "_gradients")(n.x, by, ones, n.dy)[0], dtype)
    assert dw is None
    assert db is None


@pytest.mark.parametrize("only", ["weight", "bias"])
@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_one_parameter(make: Any, name: str, only: str) -> None:
    n = Numbers((3, 4), (4,))
    argument, by = (4, 1) if name == "layer_norm" else (2, 2)
    weight = n.weight if only == "weight" else np.ones(4)
    y, ctx = getattr(ops, name)(make.array(n.x), argument, **{only: make.array(getattr(n, only))})
    expected = getattr(oracles, name)(n.x, by, weight, n.bias if only == "bias" else None)
    make.check(y, expected, "float64")
    dx, dw, db = getattr(ops, name).backward(ctx, make.array(n.dy))
    expected = getattr(oracles, name + "_gradients")(n.x, by, weight, n.dy)
    make.check(dx, expected[0], "float64")
    if only == "weight":
        assert db is None
        make.check(dw, expected[1], "float64")
    else:
        assert dw is None
        make.check(db, expected[2], "float64")


def test_finite_differences(make: Any) -> None:
    x, weight, bias = make.array(draw(2, 4, 2, 2)), make.array(draw(4, seed=1)), make.array(draw(4, seed=2))

    def groups(x: Any, w: Any, b: Any) -> Any:
        return ops.group_norm(x, 2, w, b)

    gradcheck_op(groups, ops.group_norm.backward, x, weight, bias)
    rows, weight, bias = (make.array(draw(*shape, seed=3)) for shape in ((3, 2, 4), (2, 4), (2, 4)))

    def layer(x: Any, w: Any, b: Any) -> Any:
        return ops.layer_norm(x, (2, 4), w, b)

    gradcheck_op(layer, ops.layer_norm.backward, rows, weight, bias)


@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_against_torch(make: Any, dtype: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    n = Numbers((3, 6, 5, 4), (6, 5, 4) if name == "layer_norm" else (6,), dtype)
    argument = (6, 5, 4) if name == "layer_norm" else 2
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (n.x, n.weight, n.bias)]
    expected = getattr(torch.nn.functional, name)(leaves[0], argument, *leaves[1:], eps=1e-4)
    expected.backward(torch.tensor(n.dy, dtype=torch.float64))
    y, ctx = getattr(ops, name)(
        *map(make.array, (n.x,)), argument, make.array(n.weight), make.array(n.bias), eps=1e-4
    )
    make.check(y, expected.detach().numpy(), dtype)
    gradients = getattr(ops, name).backward(ctx, make.array(n.dy))
    check_gradients(make, gradients, tuple(leaf.grad.numpy() for leaf in leaves), terms=3.0)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout(make: Any, layout: Any) -> None:
    n = Numbers((3, 4, 3, 5), (4,))
    x, dy = layout(make, n.x), layout(make, n.dy)
    values, dy_values = make.to_numpy(x), make.to_numpy(dy)
    weight = draw(4, 3, 5, seed=6)
    y, ctx = ops.group_norm(x, 2, make.array(n.weight), make.array(n.bias))
    make.check(y, oracles.group_norm(values, 2, n.weight, n.bias), "float64")
    with make.unchanged(x, dy, ctx):
        gradients = ops.group_norm.backward(ctx, dy)
    expected = oracles.group_norm_gradients(values, 2, n.weight, dy_values)
    check_gradients(make, gradients, expected, terms=3.0)
    y, ctx = ops.layer_norm(x, (4, 3, 5), make.array(weight), make.array(weight))
    make.check(y, oracles.layer_norm(values, 3, weight, weight), "float64")
    with make.unchanged(x, dy, ctx):
        gradients = ops.layer_norm.backward(ctx, dy)
    check_gradients(make, gradients, oracles.layer_norm_gradients(values, 3, weight, dy_values), terms=3.0)


def test_channels_last_stays() -> None:
    """Normalisation works in the layout that convolution hands it, forward and backward."""
    x = np.ascontiguousarray(draw(2, 3, 5, 4)).transpose(0, 3, 1, 2)
    for (y, ctx), backward in (
        (ops.group_norm(x, 2, draw(4), draw(4)), ops.group_norm.backward),
        (ops.layer_norm(x, (4, 3, 5)), ops.layer_norm.backward),
    ):
        assert is_channels_last(y)
        assert is_channels_last(backward(ctx, x)[0])


def test_mean_far_from_zero(make: Any) -> None:
    """E[x²] − E[x]² would lose the variance altogether; the rounding of the mean itself costs 5e-4 here."""
    values = (1e4 + draw(4, 2, 16, 16)).astype("float32")
    y, _ = ops.group_norm(make.array(values), 1)
    make.check(y, oracles.group_norm(values, 1), "float32", rtol=1e-3)
    y, _ = ops.layer_norm(make.array(values), (2, 16, 16))
    make.check(y, oracles.layer_norm(values, 3), "float32", rtol=1e-3)


def test_one_value_to_normalise(make: Any, dtype: str) -> None:
    """It is its own mean: y is the bias, and x has no influence."""
    x, bias = make.array([[5.0, -3.0]], dtype), make.array([0.5, 0.25], dtype)
    y, ctx = ops.group_norm(x, 2, None, bias)
    make.check(y, [[0.5, 0.25]], dtype)
    make.check(ops.group_norm.backward(ctx, x)[0], [[0.0, 0.0]], dtype, scale=1e-30)
    column, bias = make.array([[5.0], [-3.0]], dtype), make.array([0.5], dtype)
    y, ctx = ops.layer_norm(column, 1, None, bias)
    make.check(y, [[0.5], [0.5]], dtype)
    make.check(ops.layer_norm.backward(ctx, column)[0], [[0.0], [0.0]], dtype, scale=1e-30)


def test_context_keeps_references_and_statistics() -> None:
    x, weight = draw(4, 6, 8, 8), draw(6)
    _, ctx = ops.group_norm(x, 3, weight)
    assert ctx.x is x
    assert ctx.weight is weight
    assert ctx.mean.size == ctx.inverse_std.size == 4 * 6
    weight = draw(6, 8, 8)
    _, ctx = ops.layer_norm(x, (6, 8, 8), weight)
    assert ctx.x is x
    assert ctx.weight is weight
    assert ctx.mean.size == ctx.inverse_std.size == 4


# Errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 4, 5)], ids=str)
def test_layer_norm_of_other_shapes(make: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        errors.ShapeError, match=mentions("layer_norm", "normalized_shape", str(shape), "(2, 3, 4)")
    ):
        ops.layer_norm(make.array(draw(2, 3, 4)), shape)


@pytest.mark.parametrize("shape", [0, -1, (), (3, 0), 1.5, "4", (2.0,), True], ids=repr)
def test_bad_normalized_shape(make: Any, shape: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("layer_norm", "normalized_shape", repr(shape))):
        ops.layer_norm(make.array(draw(2, 4)), shape)


@pytest.mark.parametrize("groups", [0, -2, 1.5, "2", None, True], ids=repr)
def test_bad_number_of_groups(make: Any, groups: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("group_norm", "num_groups", repr(groups))):
        ops.group_norm(make.array(draw(2, 4)), groups)


def test_bad_arrays(make: Any) -> None:
    x = make.array(draw(2, 4, 3))
    with pytest.raises(errors.ShapeError, match=mentions("group_norm", "num_groups=3", "C=4", "(2, 4, 3)")):
        ops.group_norm(x, 3)
    with pytest.raises(errors.ShapeError, match=mentions("group_norm", "(4,)")):
        ops.group_norm(make.array(draw(4)), 2)
    with pytest.raises(errors.ShapeError, match=mentions("group_norm", "(2, 4, 0)")):
        ops.group_norm(make.array(draw(2, 4, 0)), 2)
    for name, argument in (("layer_norm", 3), ("group_norm", 2)):
        op, size = getattr(ops, name), 3 if name == "layer_norm" else 4
        for parameter in ("weight", "bias"):
            wrong = {parameter: make.array(np.ones(5))}
            with pytest.raises(errors.ShapeError, match=mentions(name, parameter, "(5,)", f"({size},)")):
                op(x, argument, **wrong)
            wrong = {parameter: make.array(np.ones(size), "float32")}
            with pytest.raises(errors.DtypeError, match=mentions(name, parameter, "float32", "float64")):
                op(x, argument, **wrong)
        with pytest.raises(errors.DtypeError, match=mentions(name, "x", "int64")):
            op(make.array(np.ones((2, 4, 3)), "int64"), argument)
        _, ctx = op(x, argument)
        with pytest.raises(errors.ShapeError, match=mentions(name + ".backward", "(2, 4)", "(2, 4, 3)")):
            getattr(ops, name).backward(ctx, make.array(draw(2, 4)))
