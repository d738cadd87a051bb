"""Deskewing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import errors, ops
from xpcnn.testing import gradcheck_op

from .helpers import LAYOUTS, draw, mentions
from .image_oracles import slant_of, upright


def strokes(n: int, c: int, h: int, w: int) -> np.ndarray:
    """Return images of a leaning stroke each, with some noise."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.2, (n, c, h, w))
    for image in images:
        lean, start = rng.uniform(-1.5, 1.5), rng.integers(w)
        for i in range(h):
            image[:, i, min(max(round(start + lean * (i - h // 2)), 0), w - 1)] += rng.random()
    return images


CASES: dict[str, tuple[int, int, int, int]] = {
    "digits": (3, 1, 28, 28),
    "channels": (4, 3, 6, 9),
    "tall": (3, 2, 9, 2),
    "one row": (3, 2, 1, 7),
    "one column": (3, 2, 7, 1),
    "1x1 images": (3, 2, 1, 1),
    "batch 1": (1, 1, 5, 5),
    "empty batch": (0, 2, 6, 5),
}


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES.keys())
def test_matches_the_loops(make: Any, dtype: str, shape: tuple[int, int, int, int]) -> None:
    values, dy_values = strokes(*shape).astype(dtype), draw(*shape, dtype=dtype, seed=1)
    x, dy = make.array(values), make.array(dy_values)
    with make.unchanged(x):
        y, ctx = ops.deskew(x)
    with make.unchanged(x, y, dy, ctx):
        dx = ops.deskew_backward(ctx, dy)
    make.check(y, upright(values), dtype)
    assert (dx.shape, dx.dtype) == (x.shape, x.dtype)  # its values: below


@pytest.mark.parametrize("name", CASES)
def test_finite_differences(make: Any, name: str) -> None:
    shape = CASES[name]
    images = strokes(*shape)[:, :, :9, :9]
    if images.size:
        gradcheck_op(ops.deskew, ops.deskew_backward, make.array(images))


def test_a_stroke_becomes_upright(make: Any) -> None:
    images = np.zeros((3, 1, 28, 28))
    for image, lean in zip(images, (-0.7, 0.25, 0.9), strict=True):
        for i in range(6, 22):
            image[0, i, round(14 + lean * (i - 13.5))] = 1.0
    assert [slant_of(image)[1] for image in images] == pytest.approx([-0.7, 0.25, 0.9], abs=0.1)
    y = make.to_numpy(ops.deskew(make.array(images))[0])
    assert all(abs(slant_of(image)[1]) < 0.05 for image in y)
    np.testing.assert_allclose(y.sum(axis=(1, 2, 3)), images.sum(axis=(1, 2, 3)))


def test_nothing_in_it_or_one_row_alone(make: Any, dtype: str) -> None:
    images, dy = np.zeros((2, 1, 5, 6), dtype), draw(2, 1, 5, 6, dtype=dtype, seed=1)
    images[1, 0, 3] = [0.3, 0.7, 0, 0.1, 0.9, 0.2]
    y, ctx = ops.deskew(make.array(images))
    make.check(y, images, dtype)
    make.check(ops.deskew_backward(ctx, make.array(dy)), dy, dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout(make: Any, layout: Any) -> None:
    x = layout(make, strokes(3, 4, 6, 5))
    with make.unchanged(x):
        y, _ = ops.deskew(x)
    make.check(y, upright(make.to_numpy(x)), "float64")


def test_bad_arrays(make: Any) -> None:
    with pytest.raises(errors.ShapeError, match=mentions("deskew", "x", "(2, 4)")):
        ops.deskew(make.array(draw(2, 4)))
    with pytest.raises(errors.DtypeError, match=mentions("deskew", "x", "int64")):
        ops.deskew(make.array(np.ones((1, 1, 4, 4)), "int64"))
    _, ctx = ops.deskew(make.array(strokes(2, 1, 4, 5)))
    with pytest.raises(errors.ShapeError, match=mentions("deskew_backward", "(2, 1, 5, 4)")):
        ops.deskew_backward(ctx, make.array(draw(2, 1, 5, 4)))
