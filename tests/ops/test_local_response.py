"""Local response normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import LAYOUTS, draw, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.testing import gradcheck_op

STRONG = {"alpha": 0.7, "beta": 0.75, "k": 1.5}
"""Numbers with which neighbours matter."""

# (shape of x, size, other options)
CASES: dict[str, tuple[tuple[int, ...], int, dict[str, float]]] = {
    "odd": ((2, 7, 3, 2), 5, STRONG),
    "even": ((2, 6, 2, 3), 4, STRONG),
    "two": ((2, 5, 2, 2), 2, STRONG),
    "one channel a window": ((2, 4, 2, 3), 1, STRONG),
    "wider than the channels": ((2, 3, 2, 2), 9, STRONG),
    "even and wider": ((1, 3, 2, 2), 6, STRONG),
    "one channel": ((2, 1, 3, 3), 5, STRONG),
    "1x1 image": ((3, 6, 1, 1), 3, STRONG),
    "features": ((4, 6), 3, STRONG),
    "sequences": ((2, 6, 3), 3, STRONG),
    "whole power": ((2, 5, 2, 2), 3, {"alpha": 2.0, "beta": 1.0, "k": 0.5}),
    "no power": ((2, 5, 2, 2), 3, {"alpha": 2.0, "beta": 0.0, "k": 1.0}),
    "no energy": ((2, 5, 2, 2), 3, {"alpha": 0.0, "beta": 0.75, "k": 2.0}),
    "defaults": ((2, 8, 2, 2), 5, {}),
    "empty batch": ((0, 5, 2, 2), 3, STRONG),
}
every_case = pytest.mark.parametrize(("shape", "size", "options"), CASES.values(), ids=CASES.keys())


@every_case
def test_matches_the_loops(make: Any, dtype: str, shape: Any, size: int, options: dict[str, float]) -> None:
    values, dy_values = (2 * draw(*shape)).astype(dtype), draw(*shape, dtype=dtype, seed=1)
    x, dy = make.array(values), make.array(dy_values)
    with make.unchanged(x):
        y, ctx = ops.local_response_norm(x, size, **options)
    with make.unchanged(x, y, dy, ctx):
        dx = ops.local_response_norm.backward(ctx, dy)
    make.check(y, oracles.local_response_norm(values, size, **options), dtype)
    make.check(dx, oracles.local_response_norm_gradients(values, dy_values, size, **options), dtype)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 12])
def test_against_torch(make: Any, dtype: str, size: int) -> None:
    torch = pytest.importorskip("torch")
    values, dy = (3 * draw(2, 9, 4, 5)).astype(dtype), draw(2, 9, 4, 5, dtype=dtype, seed=1)
    leaf = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.local_response_norm(leaf, size, **STRONG)
    expected.backward(torch.tensor(dy, dtype=torch.float64))
    y, ctx = ops.local_response_norm(make.array(values), size, **STRONG)
    make.check(y, expected.detach().numpy(), dtype)
    make.check(ops.local_response_norm.backward(ctx, make.array(dy)), leaf.grad.numpy(), dtype)


def test_alexnets_numbers(make: Any) -> None:
    """n=5, α=1e-4, β=0.75, k=2 of the paper, which does not divide α by n."""
    values = 30 * draw(1, 8, 1, 2)
    y, _ = ops.local_response_norm(make.array(values), 5, alpha=5e-4, beta=0.75, k=2.0)
    expected = np.empty_like(values)
    for c in range(8):
        energy = (values[:, max(c - 2, 0) : c + 3] ** 2).sum(axis=1)
        expected[:, c] = values[:, c] / (2 + 1e-4 * energy) ** 0.75
    make.check(y, expected, "float64")


@pytest.mark.parametrize("size", [3, 4])
def test_finite_differences(make: Any, size: int) -> None:
    x = make.array(2 * draw(2, 5, 2, 2))
    gradcheck_op(lambda x: ops.local_response_norm(x, size, **STRONG), ops.local_response_norm.backward, x)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout(make: Any, layout: Any) -> None:
    x, dy = layout(make, draw(2, 5, 3, 4)), layout(make, draw(2, 5, 3, 4, seed=1))
    values, dy_values = make.to_numpy(x), make.to_numpy(dy)
    with make.unchanged(x, dy):
        y, ctx = ops.local_response_norm(x, 4, **STRONG)
        dx = ops.local_response_norm.backward(ctx, dy)
    make.check(y, oracles.local_response_norm(values, 4, **STRONG), "float64")
    make.check(dx, oracles.local_response_norm_gradients(values, dy_values, 4, **STRONG), "float64")


def test_channels_last_stays() -> None:
    x = np.ascontiguousarray(draw(2, 3, 5, 4)).transpose(0, 3, 1, 2)
    y, ctx = ops.local_response_norm(x, 3)
    assert is_channels_last(y)
    assert is_channels_last(ops.local_response_norm.backward(ctx, x))


def test_context_keeps_the_input_alone() -> None:
    x = draw(2, 5, 3, 4)
    _, ctx = ops.local_response_norm(x, 3)
    assert ctx.x is x
    assert all(isinstance(item, int | float) for item in ctx[1:])


# Errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2.5, "5", None, True], ids=repr)
def test_bad_size(make: Any, size: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("local_response_norm", "size", repr(size))):
        ops.local_response_norm(make.array(draw(2, 4)), size)


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"k": -1.0}, {"k": float("nan")}], ids=str)
def test_negative_energy(make: Any, wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(errors.ArgumentError, match=mentions(f"local_response_norm: {name}", f"got {value}")):
        ops.local_response_norm(make.array(draw(2, 4)), 3, **wrong)


def test_bad_arrays(make: Any) -> None:
    with pytest.raises(errors.ShapeError, match=mentions("local_response_norm", "(4,)")):
        ops.local_response_norm(make.array(draw(4)), 3)
    with pytest.raises(errors.DtypeError, match=mentions("local_response_norm", "x", "int64")):
        ops.local_response_norm(make.array(np.ones((2, 4)), "int64"), 3)
    _, ctx = ops.local_response_norm(make.array(draw(2, 4)), 3)
    name = "local_response_norm.backward"
    with pytest.raises(errors.ShapeError, match=mentions(name, "(4, 2)", "(2, 4)")):
        ops.local_response_norm.backward(ctx, make.array(draw(4, 2)))
    with pytest.raises(errors.DtypeError, match=mentions(name, "float32", "float64")):
        ops.local_response_norm.backward(ctx, make.array(draw(2, 4), "float32"))
