"""Sobel's edges, beside loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn.errors import ShapeError
from xpcnn.viz import plot_sobel, sobel

pytest.importorskip("matplotlib")

DOWN = [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
IMAGE = np.random.default_rng(0).integers(0, 256, (3, 7, 9)).astype(np.uint8)


def by_loops(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grey = [[sum(int(image[c, i, j]) for c in range(3)) / 3 / 255 for j in range(9)] for i in range(7)]
    horizontal, vertical = np.zeros((5, 7)), np.zeros((5, 7))
    for i in range(5):
        for j in range(7):
            for r in range(3):
                for s in range(3):
                    horizontal[i, j] += DOWN[r][s] * grey[i + r][j + s]
                    vertical[i, j] += DOWN[s][r] * grey[i + r][j + s]
    return horizontal, vertical


def test_edges(make: Any) -> None:
    with make.use():
        found = sobel(make.array(IMAGE))
    for edges, expected in zip(found, by_loops(IMAGE), strict=True):
        assert edges.dtype == np.float32
        np.testing.assert_allclose(edges, expected, atol=2e-6)


def test_which_edge_is_which() -> None:
    lighter_below = np.zeros((5, 5))
    lighter_below[3:] = 1
    horizontal, vertical = sobel(lighter_below)
    assert horizontal.tolist() == [[0, 0, 0], [4, 4, 4], [4, 4, 4]]
    assert not vertical.any()


def test_what_is_drawn() -> None:
    horizontal, vertical = by_loops(IMAGE)
    figure = plot_sobel(IMAGE)
    pictures = [axes.images[0] for axes in figure.axes]
    expected = (IMAGE.mean(axis=0) / 255, horizontal, vertical, np.sqrt(horizontal**2 + vertical**2))
    for picture, values in zip(pictures, expected, strict=True):
        np.testing.assert_allclose(picture.get_array(), values, atol=5e-6)
    strongest = max(abs(horizontal).max(), abs(vertical).max())
    for picture in pictures[1:3]:
        assert picture.get_clim() == pytest.approx((-strongest, strongest))
    assert pictures[3].get_clim()[0] == 0
    assert figure.axes[1].get_xlabel() == "−1 −2 −1\n 0  0  0\n 1  2  1"
    assert figure.axes[2].get_xlabel() == "−1  0  1\n−2  0  2\n−1  0  1"


def test_other_images() -> None:
    np.testing.assert_array_equal(sobel(IMAGE[None])[0], sobel(IMAGE)[0])
    assert len(plot_sobel(np.zeros((3, 3))).axes) == 4  # without any edge
    for shape in ((2, 5), (2, 1, 5, 5), (5,)):
        with pytest.raises(ShapeError, match=r"sobel: image must be one image .* got shape \("):
            sobel(np.zeros(shape))
