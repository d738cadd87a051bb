"""Size normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import errors, nn, ops
from xpcnn.testing import gradcheck_op

from .helpers import LAYOUTS, draw, mentions
from .image_oracles import normalized


def digits(n: int, c: int, h: int, w: int) -> np.ndarray:
    """Return images with something in a box, faint noise around it, and one with nothing in it."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.09, (n, c, h, w))
    for image in images[:-1] if n > 1 else images:
        top, left = rng.integers(h), rng.integers(w)
        below, right = rng.integers(top + 1, h + 1), rng.integers(left + 1, w + 1)
        image[:, top:below, left:right] += rng.random((c, below - top, right - left))
    return images


# (shape of x, size)
CASES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int]]] = {
    "digits": ((6, 1, 28, 28), (20, 12)),
    "channels": ((5, 3, 9, 11), (6, 7)),
    "the whole image": ((4, 2, 7, 5), (7, 5)),
    "a point": ((4, 1, 7, 6), (1, 1)),
    "one row": ((4, 2, 1, 8), (1, 5)),
    "one column": ((4, 2, 8, 1), (3, 1)),
    "1x1 images": ((3, 2, 1, 1), (1, 1)),
    "batch 1": ((1, 1, 9, 9), (4, 5)),
    "empty batch": ((0, 2, 6, 5), (4, 3)),
}
every_case = pytest.mark.parametrize(("shape", "size"), CASES.values(), ids=CASES.keys())


@every_case
def test_matches_the_loops(make: Any, dtype: str, shape: Any, size: tuple[int, int]) -> None:
    values, dy_values = digits(*shape).astype(dtype), draw(*shape, dtype=dtype, seed=1)
    x, dy = make.array(values), make.array(dy_values)
    with make.unchanged(x):
        y, ctx = ops.normalize_size(x, size)
    with make.unchanged(x, y, dy, ctx):
        dx = ops.normalize_size_backward(ctx, dy)
    make.check(y, normalized(values, size), dtype)
    # y is linear in x while the boxes stay, so dx is right where <dy, y> = <dx, x>, but for what is outside.
    assert dx.dtype == x.dtype
    pulled, pushed = (dy_values * normalized(values, size)).sum(), (make.to_numpy(dx) * values).sum()
    np.testing.assert_allclose(pushed, pulled, rtol=1e-4, atol=1e-4 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("size", [(20, 10), (20, 20), (5, 28), (28, 3)])
def test_against_torch(make: Any, dtype: str, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    values, dy = np.zeros((1, 2, 28, 28), dtype), draw(1, 2, 28, 28, dtype=dtype, seed=1)
    values[:, :, 3:22, 9:20] = 0.2 + draw(1, 2, 19, 11, dtype=dtype) ** 2
    leaf = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    box = torch.nn.functional.interpolate(
        leaf[:, :, 3:22, 9:20], size, mode="bilinear", antialias=True, align_corners=False
    )
    top, left = (28 - size[0]) // 2, (28 - size[1]) // 2
    expected = torch.nn.functional.pad(box, (left, 28 - size[1] - left, top, 28 - size[0] - top))
    expected.backward(torch.tensor(dy, dtype=torch.float64))
    y, ctx = ops.normalize_size(make.array(values), size)
    make.check(y, expected.detach().numpy(), dtype)
    make.check(ops.normalize_size_backward(ctx, make.array(dy)), leaf.grad.numpy(), dtype)


@pytest.mark.parametrize(
    "name", ["channels", "the whole image", "a point", "one row", "one column", "batch 1"]
)
def test_finite_differences(make: Any, name: str) -> None:
    shape, size = CASES[name]
    gradcheck_op(
        lambda x: ops.normalize_size(x, size), ops.normalize_size_backward, make.array(digits(*shape))
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout(make: Any, layout: Any) -> None:
    x = layout(make, digits(3, 4, 6, 5))
    with make.unchanged(x):
        y, _ = ops.normalize_size(x, (4, 3))
    make.check(y, normalized(make.to_numpy(x), (4, 3)), "float64")


def test_a_box_that_fits_already_stays(make: Any) -> None:
    values = np.zeros((1, 1, 9, 9))
    values[:, :, 2:7, 1:8] = 0.5 + draw(1, 1, 5, 7) ** 2
    make.check(ops.normalize_size(make.array(values), (5, 7))[0], values, "float64")


# Errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, (3, 0), 2.5, (1, 2, 3), None, True], ids=repr)
def test_bad_size(make: Any, size: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("normalize_size", "size", repr(size))):
        ops.normalize_size(make.array(digits(2, 1, 4, 4)), size)
    with pytest.raises(errors.ArgumentError, match=mentions("NormalizeSize", "size", repr(size))):
        nn.NormalizeSize(size)


def test_bad_arrays(make: Any) -> None:
    x = make.array(digits(2, 1, 4, 5))
    with pytest.raises(errors.ShapeError, match=mentions("normalize_size", "(5, 5)", "(2, 1, 4, 5)")):
        ops.normalize_size(x, 5)
    with pytest.raises(errors.ShapeError, match=mentions("normalize_size", "x", "(2, 4)")):
        ops.normalize_size(make.array(draw(2, 4)), 2)
    with pytest.raises(errors.DtypeError, match=mentions("normalize_size", "x", "int64")):
        ops.normalize_size(make.array(np.ones((1, 1, 4, 4)), "int64"), 2)
    _, ctx = ops.normalize_size(x, 2)
    with pytest.raises(errors.ShapeError, match=mentions("normalize_size_backward", "(2, 1, 5, 4)")):
        ops.normalize_size_backward(ctx, make.array(draw(2, 1, 5, 4)))
