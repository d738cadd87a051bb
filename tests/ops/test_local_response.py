"""Local response normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import draw, mentions
from xpcnn import errors, ops

STRONG = {"alpha": 0.7, "beta": 0.75, "k": 1.5}
"""Numbers with which neighbours matter."""

# (shape of x, size, other options)
CASES: dict[str, tuple[tuple[int, ...], int, dict[str, float]]] = {
    "odd": ((2, 7, 3, 2), 5, STRONG),
    "even": ((2, 6, 2, 3), 4, STRONG),
    "one channel a window": ((2, 4, 2, 3), 1, STRONG),
    "wider than the channels": ((2, 3, 2, 2), 9, STRONG),
    "even and wider": ((1, 3, 2, 2), 6, STRONG),
    "1x1 image": ((3, 6, 1, 1), 3, STRONG),
    "features": ((4, 6), 2, STRONG),
    "sequences": ((2, 6, 3), 3, STRONG),
    "whole power": ((2, 5, 2, 2), 3, {"alpha": 2.0, "beta": 1.0, "k": 0.5}),
    "no power": ((2, 5, 2, 2), 3, {"alpha": 2.0, "beta": 0.0, "k": 1.0}),
    "no energy": ((2, 5, 2, 2), 3, {"alpha": 0.0, "beta": 0.75, "k": 2.0}),
    "defaults": ((2, 8, 2, 2), 5, {}),
    "empty batch": ((0, 5, 2, 2), 3, STRONG),
}


def check(make: Any, x: Any, dy: Any, size: int, options: dict[str, float], dtype: str) -> None:
    with make.unchanged(x, dy):
        y, ctx = ops.local_response_norm(x, size, **options)
        dx = ops.local_response_norm.backward(ctx, dy)
    values, dy_values = make.to_numpy(x), make.to_numpy(dy)
    make.check(y, oracles.local_response_norm(values, size, **options), dtype)
    make.check(dx, oracles.local_response_norm_gradients(values, dy_values, size, **options), dtype)
    assert ctx.x is x
    assert all(isinstance(item, int | float) for item in ctx[1:])


@pytest.mark.parametrize(("shape", "size", "options"), CASES.values(), ids=CASES.keys())
def test_matches_the_loops(make: Any, dtype: str, shape: Any, size: int, options: dict[str, float]) -> None:
    check(
        make,
        make.array(2 * draw(*shape), dtype),
        make.array(draw(*shape, seed=1), dtype),
        size,
        options,
        dtype,
    )


def test_alexnets_numbers() -> None:
    """n=5, α=1e-4, β=0.75, k=2 of the paper, which does not divide α by n."""
    values = 30 * draw(1, 8, 1, 2)
    y, _ = ops.local_response_norm(values, 5, alpha=5e-4, beta=0.75, k=2.0)
    for c in range(8):
        energy = (values[:, max(c - 2, 0) : c + 3] ** 2).sum(axis=1)
        np.testing.assert_allclose(y[:, c], values[:, c] / (2 + 1e-4 * energy) ** 0.75, rtol=1e-11)


def test_errors() -> None:
    name, x = "local_response_norm", draw(2, 4)
    for wrong in (
        {"size": 0},
        {"size": 2.5},
        {"size": "5"},
        {"size": True},
        {"alpha": -0.1},
        {"k": float("nan")},
    ):
        ((option, value),) = wrong.items()
        with pytest.raises(errors.ArgumentError, match=mentions(f"{name}: {option}", repr(value))):
            ops.local_response_norm(x, **{"size": 3, **wrong})
    with pytest.raises(errors.ShapeError, match=mentions(name, "(4,)")):
        ops.local_response_norm(draw(4), 3)
