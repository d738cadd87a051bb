"""Columns and images, sizes, shuffling, smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.scratch import draw
from xpcnn.errors import ShapeError
from xpcnn.scratch import util

GEOMETRIES = {
    "the book's": (5, 5, 1, 0),
    "padded": (3, 3, 1, 1),
    "stride does not divide": (2, 3, 2, 1),
    "wide stride": (2, 2, 3, 0),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())


@every_geometry
def test_im2col_and_col2im(make: Any, dtype: str, geometry: tuple[int, int, int, int]) -> None:
    fh, fw, stride, pad = geometry
    x = draw(2, 3, 7, 6)
    strides, pads = (stride, stride), (pad,) * 4
    columns = oracles.im2col(x, (fh, fw), strides, pads)
    make.check(util.im2col(make.array(x, dtype), fh, fw, stride, pad), columns, dtype)
    back = oracles.col2im(columns, x.shape, (fh, fw), strides, pads)
    make.check(util.col2im(make.array(columns, dtype), x.shape, fh, fw, stride, pad), back, dtype)


def test_stride_and_padding_may_be_left_out(make: Any) -> None:
    x = draw(1, 1, 4, 4)
    columns = util.im2col(make.array(x), 3, 3)
    assert tuple(columns.shape) == (4, 9)
    assert tuple(util.col2im(columns, (1, 1, 4, 4), 3, 3).shape) == (1, 1, 4, 4)


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float16"])
def test_the_dtype_is_kept(make: Any, kind: str) -> None:
    if not make.has(kind):
        pytest.skip(f"no {kind}")
    x = np.arange(32).reshape(1, 2, 4, 4)
    columns = util.im2col(make.array(x, kind), 2, 2, stride=2)
    make.check_kind(columns, (4, 8), kind)
    np.testing.assert_array_equal(
        make.to_numpy(columns), oracles.im2col(x.astype(float), (2, 2), (2, 2), (0,) * 4)
    )
    folded = util.col2im(columns, x.shape, 2, 2, stride=2)
    make.check_kind(folded, x.shape, kind)
    np.testing.assert_array_equal(make.to_numpy(folded), x)


@pytest.mark.parametrize(
    ("arguments", "size"), [((28, 5), 24), ((28, 5, 2), 12), ((7, 3, 2, 1), 4), ((5, 5), 1)]
)
def test_output_sizes_are_whole_numbers(arguments: tuple[int, ...], size: int) -> None:
    found = util.conv_output_size(*arguments)
    assert (found, type(found)) == (size, int)


def test_shuffling_keeps_samples_with_their_labels(make: Any) -> None:
    for shape in [(30, 4), (30, 1, 2, 2), (30,)]:
        x = np.arange(30 * int(np.prod(shape[1:]))).reshape(shape)
        t = x.reshape(30, -1)[:, 0]
        with make.unchanged(given := (make.array(x), make.array(t))):
            new_x, new_t = (make.to_numpy(array) for array in util.shuffle_dataset(*given))
        assert new_x.shape == shape
        np.testing.assert_array_equal(new_x.reshape(30, -1)[:, 0], new_t)
        assert sorted(new_t) == sorted(t)
        assert list(new_t) != list(t)


def test_shuffling_follows_the_global_seed() -> None:
    x = np.arange(20)
    np.random.seed(7)
    expected = np.random.permutation(20)
    np.random.seed(7)
    np.testing.assert_array_equal(util.shuffle_dataset(x, x)[0], expected)


def test_shuffling_needs_as_many_labels_as_samples() -> None:
    with pytest.raises(ShapeError, match=r"3 samples \(shape \(3, 2\)\) but 4 labels \(shape \(4,\)\)"):
        util.shuffle_dataset(np.zeros((3, 2)), np.zeros(4))


def smoothed_by_hand(x: Any) -> list[float]:
    """Each point as the weighted mean of the 11 around it, the curve continued by its mirror image."""
    n = len(x)
    weights = [float(w) for w in np.kaiser(11, 2)]

    def at(i: int) -> float:
        if i < 0:
            return float(x[-i])
        return float(x[i] if i < n else x[2 * n - 1 - i])  # the last point is its own neighbour

    return [
        sum(w * at(i + k) for w, k in zip(weights, range(-5, 6), strict=True)) / sum(weights)
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [11, 12, 40])
def test_smoothing(make: Any, n: int) -> None:
    curve = draw(n)
    for given in (make.array(curve), list(curve), [make.array(point) for point in curve]):
        smooth = util.smooth_curve(given)
        assert isinstance(smooth, np.ndarray)
        np.testing.assert_allclose(smooth, smoothed_by_hand(curve), rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 10])
def test_curves_shorter_than_the_window_stay(n: int) -> None:
    np.testing.assert_array_equal(util.smooth_curve(draw(n)), draw(n))
