"""ScaledAvgPool2d: LeNet-5's subsampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.nn import build, draw, mentions
from xpcnn import errors, nn


def test_the_papers_formula(make: Any) -> None:
    """Four inputs are added, multiplied by a coefficient, and a bias is added: S2 of 1998, six maps."""
    with make.use():
        layer = nn.ScaledAvgPool2d(6, 2, dtype="float64")
    x, coefficient, bias = draw(2, 6, 4, 6), draw(6, seed=1), draw(6, seed=2)
    layer.load_state_dict({"weight": 4 * coefficient, "bias": bias})
    sums = x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
    make.check(layer(make.array(x)), sums * coefficient[:, None, None] + bias[:, None, None], "float64")


def test_half_precision_sums_wide(make: Any) -> None:
    """The gradients of the parameters are the exact sums, rounded once."""
    if not make.has("float16"):
        pytest.skip(f"{make.backend} has no float16")
    with make.use():
        layer = nn.ScaledAvgPool2d(2, 1, dtype="float16")
    rng = np.random.default_rng(0)
    x, dy = ((0.5 + rng.random((300, 2, 2, 2))).astype("float16") for _ in range(2))
    y, ctx = layer.forward(make.array(x))
    grads = nn.Gradients()
    dx = layer.backward(ctx, make.array(dy), grads)
    make.check_kind(y, x.shape, "float16")
    make.check_kind(dx, x.shape, "float16")
    wide, dy = x.astype("float64"), dy.astype("float64")
    for path, exact in (("weight", (wide * dy).sum(axis=(0, 2, 3))), ("bias", dy.sum(axis=(0, 2, 3)))):
        make.check_kind(grads[path], (2,), "float16")
        np.testing.assert_allclose(make.to_numpy(grads[path]), exact, rtol=1.02 * 2.0**-11)


def test_errors(make: Any) -> None:
    layer = build(make, lambda: nn.ScaledAvgPool2d(3, 2))
    with pytest.raises(errors.ShapeError, match=mentions("ScaledAvgPool2d", "C=2", "(1, 2, 4, 4)", "3")):
        layer(make.array(draw(1, 2, 4, 4)))
    with pytest.raises(errors.DtypeError, match=mentions("ScaledAvgPool2d", "float32", "float64")):
        layer(make.array(draw(1, 3, 4, 4), "float32"))
    with pytest.raises(errors.ShapeError, match=mentions("kernel", "2x2", "1x4")):
        layer(make.array(draw(1, 3, 1, 4)))
    _, ctx = layer.forward(make.array(draw(1, 3, 4, 4)))
    with pytest.raises(errors.ShapeError, match=mentions("ScaledAvgPool2d", "(1, 3, 1, 1)", "(1, 3, 2, 2)")):
        layer.backward(ctx, make.array(draw(1, 3, 1, 1)), nn.Gradients())
